"""Parquet shards with image bytes: COYO columns plus `image`, Hugging Face Image structs, img2dataset's `jpg`."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs import schema
from jobs.config import SourceConfig
from jobs.errors import Reason, SourceError
from jobs.provenance import outside
from jobs.sources import BLOCK_BYTES, BLOCK_ROWS, Damaged, Layout, Shard, Unit, end_of, rejected, unreadable
from jobs.sources.columns import ONE_TYPE, check, copied, layout_of, needed
from jobs.storage import Storage

PREFETCH_LIMIT = 192 << 20  # a bigger row group is streamed column by column, not held whole
BROKEN = (OSError, UnicodeDecodeError, pa.ArrowException)  # what pyarrow raises for damaged files


def describe(storage: Storage, shards: Sequence[Shard], config: SourceConfig) -> Layout:
    """The layout, from the first shard whose footer can be read."""
    for shard in shards:
        try:
            columns = pq.read_schema(storage.open(shard.entry))
        except BROKEN:
            continue  # a damaged shard is reported when it is read
        return layout_of(columns, shard.entry.path, config)
    raise SourceError(f"{config.path}: none of the {len(shards)} .parquet files has a readable footer")


def row_groups(storage: Storage, shard: Shard) -> list[tuple[int, int]]:
    """(rows, stored bytes) of each row group; empty for a file whose footer cannot be read."""
    try:
        return _extents(_footer(storage, shard))
    except Damaged:
        return []


def read(storage: Storage, layout: Layout, unit: Unit) -> Iterator[pa.Table]:
    """The unit's rows, then the shard's end: from its last unit, and from any that meets damage."""
    name = unit.shard.name
    try:
        footer = _footer(storage, unit.shard)
    except Damaged as exc:
        yield end_of(layout, name, 0, f"the Parquet footer cannot be read: {exc}")
        return
    groups = _extents(footer)
    damage = None
    for index in range(len(groups)) if unit.row_groups is None else unit.row_groups:
        first = sum(rows for rows, _ in groups[:index])
        rows, _ = groups[index]
        if not outside(np.arange(first, first + rows), unit.done).any():
            continue
        at = first
        try:
            for batch in _batches(storage, unit.shard, footer, index, layout):
                yield _raw(batch, layout, unit, at)
                at += batch.num_rows
        except Damaged as exc:
            damage = f"row group {index} cannot be read from row {at}: {exc}"
            lost = np.arange(at, first + rows)
            yield unreadable(layout, name, lost[outside(lost, unit.done)].tolist(), damage)
    if damage or unit.last:
        yield end_of(layout, name, footer.num_rows, damage)


def _footer(storage: Storage, shard: Shard) -> pq.FileMetaData:
    """Raises Damaged."""
    try:
        footer = pq.read_metadata(storage.open(shard.entry))
    except BROKEN as exc:
        raise Damaged(str(exc)) from exc
    rows = [rows for rows, _ in _extents(footer)]
    if sum(rows) != footer.num_rows or min(rows, default=0) < 0:  # one changed byte may promise billions
        raise Damaged(f"it says {footer.num_rows} rows, its row groups {sum(rows)}")
    return footer


def _extents(footer: pq.FileMetaData) -> list[tuple[int, int]]:
    return [_extent(footer.row_group(i)) for i in range(footer.num_row_groups)]


def _batches(
    storage: Storage, shard: Shard, footer: pq.FileMetaData, index: int, layout: Layout
) -> Iterator[pa.RecordBatch]:
    """The row group, never more rows than the footer says. Raises Damaged."""
    rows, size = _extent(footer.row_group(index))
    seen = 0
    small = size <= PREFETCH_LIMIT
    options = {"pre_buffer": True} if small else {"pre_buffer": False, "buffer_size": BLOCK_BYTES}
    count = max(1, min(BLOCK_ROWS, BLOCK_BYTES * rows // max(1, size)))
    try:
        file = pq.ParquetFile(storage.open(shard.entry), metadata=footer, **options)
        check(file.schema_arrow, shard.entry.path, layout)
        for batch in file.iter_batches(count, row_groups=[index], columns=needed(layout), use_threads=False):
            seen += batch.num_rows
            if seen > rows:
                break
            yield batch
    except BROKEN as exc:
        raise Damaged(str(exc)) from exc
    if seen != rows:
        raise Damaged(f"it holds {'fewer' if seen < rows else 'more'} rows than the footer's {rows}")


def _raw(batch: pa.RecordBatch, layout: Layout, unit: Unit, first: int) -> pa.Table:
    count, raw = batch.num_rows, layout.schema
    columns: dict[str, Any] = {
        schema.SHARD: pa.repeat(unit.shard.name, count),
        schema.ROW: pa.array(np.arange(first, first + count, dtype=np.int32)),
        schema.END: pa.repeat(False, count),
        schema.IMAGE: _image(batch, layout),
    }
    broken: dict[int, str] = {}
    for name, column in copied(layout).items():
        array, rows = _sound(batch.column(column))
        columns[name] = _as(array, raw.field(name).type, column, unit.shard)
        broken |= dict.fromkeys(rows, f"{column} is no valid {array.type}; text must be UTF-8")
    why, _ = _sound(batch.column(layout.error)) if layout.error else (pa.nulls(count), [])
    columns |= _rejects(columns[schema.IMAGE], why, broken)
    arrays = [columns[field.name] if field.name in columns else pa.nulls(count, field.type) for field in raw]
    table = pa.Table.from_arrays(arrays, schema=raw)
    keep = outside(np.arange(first, first + count), unit.done)
    return table if keep.all() else table.filter(pa.array(keep))


def _image(batch: pa.RecordBatch, layout: Layout) -> pa.Array:
    image = batch.column(layout.images[0])
    if layout.leaf and not pa.types.is_null(image.type):
        image = pc.struct_field(image, layout.leaf)
    return image.cast(pa.binary())


def _sound(array: pa.Array) -> tuple[pa.Array, list[int]]:
    """The array with nulls for values that are not of its type, and their rows: Arrow reads text without a look."""
    if _valid(array):
        return array, []
    plain = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array  # rows share a dictionary
    good = [row if _valid(plain.take(pa.array([row]))) else None for row in range(len(plain))]
    return plain.take(pa.array(good, pa.int64())), [row for row, at in enumerate(good) if at is None]


def _valid(array: pa.Array) -> bool:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _rejects(image: pa.Array, why: pa.Array, broken: dict[int, str]) -> dict[str, pa.Array]:
    """The columns that make rejects of the rows that are broken or have no bytes; none where there are no such rows."""
    missing = np.flatnonzero(pc.is_null(image)).tolist()
    if not missing and not broken:
        return {}
    fates: dict[int, dict[str, str]] = {}
    for row in missing:
        said = why[row].as_py()
        fates[row] = rejected(Reason.NO_IMAGE, "the image bytes are null" + (f": {said}" if said else ""))
    for row, message in broken.items():
        fates[row] = rejected(Reason.BAD_METADATA, message)
    return {
        name: pa.array([fates.get(row, {}).get(name) for row in range(len(image))], pa.string())
        for name in (schema.STAGE, schema.REASON, schema.MESSAGE)
    }


def _as(array: pa.Array, kind: pa.DataType, column: str, shard: Shard) -> pa.Array:
    """In the layout's type, which is the first shard's: others may differ, within what Arrow converts."""
    try:
        return array if array.type == kind else array.cast(kind)
    except pa.ArrowException as exc:
        raise SourceError(
            f"{shard.entry.path}: column {column!r} is {array.type}, which is not {kind} as in the first shard: {exc}",
            ONE_TYPE,
        ) from exc


def _extent(group: Any) -> tuple[int, int]:
    return group.num_rows, sum(group.column(i).total_compressed_size for i in range(group.num_columns))
