"""Annotated rows become whole Parquet objects: results in rows/, rejects in rejects/, provenance in each footer.

The name follows from the run and the write task's number, so a task that Ray repeats replaces its own object.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs import row_ranges, schema
from jobs.models import Spec
from jobs.output import footer, images
from jobs.output.layout import IMAGES, REJECTS, ROWS
from jobs.storage import Storage
from jobs.storage.paths import join_path

_NAMES = 64 << 10  # letters of zero-shot label names in one footer: a run that goes on reads every footer


@dataclass(frozen=True)
class Writer:
    """Writes one batch of annotated rows. `annotated` is the batch's schema, `about` goes into every footer."""

    storage: Storage
    path: str
    annotated: pa.Schema
    specs: tuple[Spec, ...]
    about: dict[str, str]
    keep_images: str = "none"

    def write(self, table: pa.Table, name: str) -> None:
        """At most two objects, `rows/<name>` and `rejects/<name>`; each proves only its own rows."""
        ends, bad = table.column(schema.END), pc.is_valid(table.column(schema.REASON))
        rows = table.filter(pc.and_not(pc.invert(ends), bad))
        rejects = table.filter(pc.and_(pc.invert(ends), bad))
        closing = table.filter(ends)
        # A shard's end rides with either object; a batch of nothing but ends still needs one.
        if rows.num_rows:
            if self.keep_images != "none":  # first: a rows object promises its images
                path = join_path(self.path, IMAGES, images.name_of(name, self.keep_images))
                self.storage.put(path, images.packed(_sorted(rows), self.keep_images))
            self._put(ROWS, name, rows, closing)
        if rejects.num_rows or not rows.num_rows:
            self._put(REJECTS, name, rejects, closing.slice(0, 0) if rows.num_rows else closing)

    def write_empty(self, folder: str, name: str) -> None:
        """An object without rows, so that both folders can always be opened and have a schema."""
        self._put(folder, name, self.annotated.empty_table(), self.annotated.empty_table())

    def _put(self, folder: str, name: str, annotated: pa.Table, ends: pa.Table) -> None:
        annotated = _sorted(annotated.select([name for name in annotated.column_names if name != schema.IMAGE]))
        table = self._results(annotated) if folder == ROWS else self._rejects(annotated)
        reasons = json.dumps(_tally(annotated.column(schema.REASON)))
        about = footer.encode_provenance(row_ranges.coverage_with_ends(annotated, ends), **self.about, reasons=reasons)
        metadata = {schema.PROVENANCE: about, schema.MODELS: json.dumps({spec.kind: spec.about for spec in self.specs})}
        metadata |= _names(self.specs, set(table.column_names))
        self.storage.put(join_path(self.path, folder, name), footer.parquet_bytes(table, metadata))

    def _results(self, annotated: pa.Table) -> pa.Table:
        return annotated.select(schema.rows(self.annotated).names)

    def _rejects(self, annotated: pa.Table) -> pa.Table:
        wanted = schema.rejects(self.annotated)
        own = [schema.SHARD, schema.ROW, schema.KEY, schema.STAGE, schema.REASON, schema.MESSAGE]
        return annotated.select(own).rename_columns(wanted.names).cast(wanted)


def _sorted(annotated: pa.Table) -> pa.Table:
    order = pc.sort_indices(annotated, [(schema.SHARD, "ascending"), (schema.ROW, "ascending")])
    at = annotated.schema.get_field_index(schema.IMAGE)
    if at < 0:
        return annotated.take(order)
    given = annotated.column(at)  # one by one: Arrow takes nothing out of a column of more than 2 GiB
    ordered = pa.array([given[row].as_py() for row in order.to_pylist()], given.type)
    return annotated.remove_column(at).take(order).add_column(at, annotated.schema.field(at), ordered)


def _names(specs: Sequence[Spec], columns: set[str]) -> dict[str, str]:
    """What label ids mean, for whoever gets one object by mail."""
    found = {}
    for spec in specs:
        if schema.LABELS in columns & spec.columns:
            found[schema.LABEL_NAMES] = json.dumps(spec.labels)
        if schema.ZERO_SHOT_LABELS in columns & spec.columns:
            names = json.dumps(spec.labels, ensure_ascii=False)
            if len(names) <= _NAMES:
                found[schema.ZERO_SHOT_LABEL_NAMES] = names
    return found


def _tally(reasons: Sequence[Any]) -> dict[str, int]:
    return dict(Counter(reason.as_py() for reason in reasons if reason.is_valid))
