"""Write annotated rows as whole Parquet objects: results to rows/, rejects to rejects/, provenance in each footer.

The object's name is derived from the run and the write task's number, so a task that Ray retries replaces its object.
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

_MAX_LABEL_NAMES = 64 << 10  # characters of zero-shot label names in one footer: a resumed run reads every footer


@dataclass(frozen=True)
class Writer:
    """Writes batches of annotated rows below `path`.

    `annotated` is the schema of a batch. `run_metadata` goes into every footer's provenance: run, job, version, key
    column. `keep_images` is the recipe's output.keep_images.
    """

    storage: Storage
    path: str
    annotated: pa.Schema
    specs: tuple[Spec, ...]
    run_metadata: dict[str, str]
    keep_images: str = "none"

    def write(self, table: pa.Table, name: str) -> None:
        """Write `rows/<name>`, `rejects/<name>` or both. Each footer accounts only for its own object's rows.

        Raises StorageError.
        """
        ends, bad = table.column(schema.END), pc.is_valid(table.column(schema.REASON))
        rows = table.filter(pc.and_not(pc.invert(ends), bad))
        rejects = table.filter(pc.and_(pc.invert(ends), bad))
        closing = table.filter(ends)
        # Shard ends go into one of the two objects; a batch that has only ends still writes rejects/<name>.
        if rows.num_rows:
            if self.keep_images != "none":  # before the rows: a rows object must never lack its images
                path = join_path(self.path, IMAGES, images.object_name(name, self.keep_images))
                self.storage.put(path, images.pack(_sorted(rows), self.keep_images))
            self._put(ROWS, name, rows, closing)
        if rejects.num_rows or not rows.num_rows:
            self._put(REJECTS, name, rejects, closing.slice(0, 0) if rows.num_rows else closing)

    def write_empty(self, folder: str, name: str) -> None:
        """Write an object without rows, so that both folders always exist and have a schema."""
        self._put(folder, name, self.annotated.empty_table(), self.annotated.empty_table())

    def _put(self, folder: str, name: str, annotated: pa.Table, ends: pa.Table) -> None:
        annotated = _sorted(annotated.select([name for name in annotated.column_names if name != schema.IMAGE]))
        table = self._results(annotated) if folder == ROWS else self._rejects(annotated)
        reasons = json.dumps(_count_reasons(annotated.column(schema.REASON)))
        coverage = row_ranges.coverage_with_ends(annotated, ends)
        metadata = {
            schema.PROVENANCE: footer.encode_provenance(coverage, **self.run_metadata, reasons=reasons),
            schema.MODELS: json.dumps({spec.kind: spec.metadata for spec in self.specs}),
            **_label_names(self.specs, set(table.column_names)),
        }
        self.storage.put(join_path(self.path, folder, name), footer.parquet_bytes(table, metadata))

    def _results(self, annotated: pa.Table) -> pa.Table:
        return annotated.select(schema.rows(self.annotated).names)

    def _rejects(self, annotated: pa.Table) -> pa.Table:
        rejects = schema.rejects(self.annotated)
        columns = [schema.SHARD, schema.ROW, schema.KEY, schema.STAGE, schema.REASON, schema.MESSAGE]
        return annotated.select(columns).rename_columns(rejects.names).cast(rejects)


def _sorted(annotated: pa.Table) -> pa.Table:
    """Sort by shard and row."""
    order = pc.sort_indices(annotated, [(schema.SHARD, "ascending"), (schema.ROW, "ascending")])
    index = annotated.schema.get_field_index(schema.IMAGE)
    if index < 0:
        return annotated.take(order)
    images_column = annotated.column(index)  # value by value: Arrow's take fails on a column of more than 2 GiB
    ordered = pa.array([images_column[row].as_py() for row in order.to_pylist()], images_column.type)
    return annotated.remove_column(index).take(order).add_column(index, annotated.schema.field(index), ordered)


def _label_names(specs: Sequence[Spec], columns: set[str]) -> dict[str, str]:
    """Footer entries with the names of label ids, so that each object can be understood without the others."""
    entries = {}
    for spec in specs:
        if schema.LABELS in columns & spec.column_names:
            entries[schema.LABEL_NAMES] = json.dumps(spec.labels)
        if schema.ZERO_SHOT_LABELS in columns & spec.column_names:
            names = json.dumps(spec.labels, ensure_ascii=False)
            if len(names) <= _MAX_LABEL_NAMES:
                entries[schema.ZERO_SHOT_LABEL_NAMES] = names
    return entries


def _count_reasons(reasons: Sequence[Any]) -> dict[str, int]:
    return dict(Counter(reason.as_py() for reason in reasons if reason.is_valid))
