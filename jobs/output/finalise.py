"""Turn committed objects into a finished output: repair duplicates, prove that no row is missing, write `_SUCCESS`.

Nothing here computes rows. `_SUCCESS` is written last, and only after the proof.
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
from jobs.output.ledger import Ledger, OutputObject
from jobs.output.summary import Summary
from jobs.sources import Source
from jobs.storage import Storage
from jobs.storage.paths import join_path


def has_gaps_or_duplicates(committed: Ledger, shards: Iterable[str]) -> bool:
    """Whether a row of these shards is missing, or any row is committed twice."""
    return bool(ledger.missing(committed.coverage, shards) or committed.overlapping())


def repair(storage: Storage, output: str) -> Ledger:
    """Delete objects until no row is committed twice; return the remaining ones.

    A row that only a deleted object held is missing afterwards, and the run computes it again.
    """
    committed = ledger.read(storage, output)
    return _delete(storage, committed.overlapping(), committed)


def drop_late_objects(storage: Storage, output: str, planned: Ledger, run: str) -> Ledger:
    """Delete duplicates that tasks of a dead run wrote after `run` was planned; return the remaining objects."""
    committed = ledger.read(storage, output)
    return _delete(storage, committed.late(planned, run), committed)


def check_complete(committed: Ledger, shards: Iterable[str], output: str) -> None:
    """Prove from the footers that every row of these shards is in exactly one object. Raises OutputError."""
    if problems := ledger.missing(committed.coverage, shards):
        some = "; ".join(f"{name}: {why}" for name, why in list(problems.items())[:3])
        raise OutputError(
            f"{len(problems)} shards are not complete: {some}", "run the same command again to continue here"
        )
    counted = sum(obj.num_rows for obj in committed.objects)
    covered = sum(part.count for part in committed.coverage.values())
    if counted != covered:
        raise OutputError(
            f"{output}: {counted - covered} rows are in more than one object: two runs wrote here at the same time",
            "run the same command again: it deletes duplicates",
        )


def reveal(storage: Storage, config: OutputConfig, specs: Iterable[Spec], committed: Ledger, summary: Summary) -> None:
    """Write the files that a finished output has beside its rows: label names, the summary, and `_SUCCESS` last."""
    for spec in (spec for spec in specs if spec.labels):
        names = json.dumps(spec.labels, ensure_ascii=False, indent=0).encode()
        name = LABEL_NAMES if schema.LABELS in spec.column_names else ZERO_SHOT_LABEL_NAMES
        storage.put(join_path(config.path, name), names)
    _delete_orphaned_images(storage, config, committed)
    storage.put(join_path(config.path, SUMMARY), summary.to_json().encode())
    with suppress(StorageError):  # optional cleanup: not every job has the permission
        storage.abort_uploads(config.path)
    storage.put(join_path(config.path, SUCCESS), b"")


def with_committed_schema(storage: Storage, source: Source, committed: Ledger) -> Source:
    """Give the source the column types of the committed rows: the current first shard may have other types.

    Raises OutputError for a data set whose shards have changed: their rows would be committed a second time.
    """
    names = {shard.name for shard in source.shards}
    if source.layout.dataset and (gone := sorted(committed.coverage.keys() - names)):
        message = f"the output holds rows of {gone[0]}, but {source.layout.dataset.name} has other shards now"
        raise OutputError(message, "use another output folder, or restore the data set")
    rows = next((obj for obj in committed.objects if obj.folder == ROWS), None)
    stored = pq.read_schema(storage.open(rows.entry)) if rows else pa.schema([])
    layout = source.layout
    if {schema.KEY, *(field.name for field in layout.kept)} <= set(stored.names):
        kept = tuple(field.with_type(stored.field(field.name).type) for field in layout.kept)
        layout = replace(layout, key_type=stored.field(schema.KEY).type, kept=kept)
    return replace(source, layout=layout)


def _delete(storage: Storage, objects: Iterable[OutputObject], committed: Ledger) -> Ledger:
    deleted = list(objects)
    for obj in deleted:
        log.say("output", f"{obj.entry.path}: deleted, other objects hold its rows too")
        storage.delete(obj.entry.path)
    return committed.without(deleted)


def _delete_orphaned_images(storage: Storage, config: OutputConfig, committed: Ledger) -> None:
    """Delete images objects without a rows object. Call this only when no task writes any more."""
    if config.keep_images == "none":
        return
    rows = (os.path.basename(obj.entry.path) for obj in committed.objects if obj.folder == ROWS)
    expected = {images.object_name(name, config.keep_images) for name in rows}
    for entry in storage.list_files(join_path(config.path, IMAGES)):
        if os.path.basename(entry.path) not in expected:
            storage.delete(entry.path)
