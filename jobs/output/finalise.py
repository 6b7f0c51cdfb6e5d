"""From committed objects to a finished output: repair what overlaps, prove that no row is missing, reveal the result.

Nothing here computes rows. `_SUCCESS` is written last, and only over a proof.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import log, schema
from jobs.config import OutputConfig
from jobs.errors import OutputError, StorageError
from jobs.models import Spec
from jobs.output import images, ledger
from jobs.output.layout import IMAGES, LABEL_NAMES, ROWS, SUCCESS, SUMMARY, ZERO_SHOT_LABEL_NAMES
from jobs.output.ledger import Ledger, Object
from jobs.output.summary import Summary
from jobs.sources import Source
from jobs.storage import Storage
from jobs.storage.paths import join_path


def has_gaps_or_duplicates(now: Ledger, shards: Iterable[str]) -> bool:
    """Whether rows of these shards are missing, or any row is committed twice."""
    return bool(ledger.missing(now.coverage, shards) or now.overlapping())


def repair(storage: Storage, output: str) -> Ledger:
    """Delete objects until no row is committed twice, and return what is left. Rows only they held are missing then."""
    now = ledger.read(storage, output)
    return _drop(storage, now.overlapping(), now)


def drop_late_objects(storage: Storage, output: str, planned: Ledger, run: str) -> Ledger:
    """Delete what orphans of a dead run wrote after `run` was planned. Returns what is committed now."""
    now = ledger.read(storage, output)
    return _drop(storage, now.late(planned, run), now)


def check_complete(now: Ledger, shards: Iterable[str], output: str) -> None:
    """Prove from the footers that every row of these shards is in exactly one object. Raises OutputError."""
    if problems := ledger.missing(now.coverage, shards):
        some = "; ".join(f"{name}: {why}" for name, why in list(problems.items())[:3])
        raise OutputError(
            f"{len(problems)} shards are not complete: {some}", "run the same command again: it goes on here"
        )
    counted = sum(obj.count for obj in now.objects)
    covered = sum(part.count for part in now.coverage.values())
    if counted != covered:
        raise OutputError(
            f"{output}: {counted - covered} rows are in more than one object: two runs wrote here at once",
            "run the same command again: it drops what is there twice",
        )


def reveal(storage: Storage, config: OutputConfig, specs: Iterable[Spec], now: Ledger, summary: Summary) -> None:
    """Write what a finished output has beside its rows, `_SUCCESS` last."""
    for spec in (spec for spec in specs if spec.labels):
        names = json.dumps(spec.labels, ensure_ascii=False, indent=0).encode()
        name = LABEL_NAMES if schema.LABELS in spec.columns else ZERO_SHOT_LABEL_NAMES
        storage.put(join_path(config.path, name), names)
    _drop_orphaned_images(storage, config, now)
    storage.put(join_path(config.path, SUMMARY), summary.to_json().encode())
    with suppress(StorageError):  # housekeeping, and a right that not every job has
        storage.abort_uploads(config.path)
    storage.put(join_path(config.path, SUCCESS), b"")


def with_committed_schema(storage: Storage, source: Source, committed: Ledger) -> Source:
    """Give the source the column types of the committed rows: the first shard of now may have others.

    Raises OutputError for a data set that was sharded differently before: its rows would be committed again.
    """
    names = {shard.name for shard in source.shards}
    if source.layout.dataset and (gone := sorted(committed.coverage.keys() - names)):
        message = f"the output holds rows of {gone[0]}, and {source.layout.dataset.name} has other shards now"
        raise OutputError(message, "give the job an output folder of its own, or put the data set back")
    rows = next((obj for obj in committed.objects if obj.folder == ROWS), None)
    there = pq.read_schema(storage.open(rows.entry)) if rows else pa.schema([])
    layout = source.layout
    if {schema.KEY, *(field.name for field in layout.kept)} <= set(there.names):
        kept = tuple(field.with_type(there.field(field.name).type) for field in layout.kept)
        layout = replace(layout, key_type=there.field(schema.KEY).type, kept=kept)
    return replace(source, layout=layout)


def _drop(storage: Storage, objects: Iterable[Object], now: Ledger) -> Ledger:
    dropped = list(objects)
    for obj in dropped:
        log.say("output", f"{obj.entry.path}: its rows are elsewhere too; removed")
        storage.delete(obj.entry.path)
    return now.without(dropped)


def _drop_orphaned_images(storage: Storage, config: OutputConfig, now: Ledger) -> None:
    """Delete images objects whose rows object was never written, or dropped; only once nobody writes any more."""
    if config.keep_images == "none":
        return
    rows = (os.path.basename(obj.entry.path) for obj in now.objects if obj.folder == ROWS)
    promised = {images.name_of(name, config.keep_images) for name in rows}
    for entry in storage.tree(join_path(config.path, IMAGES)):
        if os.path.basename(entry.path) not in promised:
            storage.delete(entry.path)
