"""Arrow columns of a source become raw rows, in the layout's types."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import schema
from jobs.errors import Reason, Reject, SourceError, Stage
from jobs.sources import Layout, Shard
from jobs.sources.columns import ONE_TYPE, copied, looked_at
from jobs.sources.selection import Mask


def raw_of(batch: pa.RecordBatch, layout: Layout, shard: Shard, first: int) -> pa.Table:
    """The batch's rows, `first` and the next ones of the shard, as raw rows: those that cannot be read are rejects."""
    count, raw = batch.num_rows, layout.schema
    rows = pa.array(np.arange(first, first + count, dtype=np.int32))
    columns: dict[str, Any] = {
        schema.SHARD: pa.repeat(shard.name, count),
        schema.ROW: rows,
        schema.SINCE: rows,
        schema.END: pa.repeat(False, count),
        schema.IMAGE: _image(batch, layout),
    }
    broken: dict[int, str] = {}
    for name, column in copied(layout).items():
        array, unsound = _sound(batch.column(column))
        columns[name] = _as(array, raw.field(name).type, column, shard)
        broken |= _said(column, array, unsound)
    for column in [*looked_at(layout), *(layout.images if layout.format == "urls" else ())]:
        broken |= _said(column, *_sound(batch.column(column)))
    why, _ = _sound(batch.column(layout.error)) if layout.error else (pa.nulls(count), [])
    what = "the url is null" if layout.format == "urls" else "the image bytes are null"
    arrays = [columns[field.name] if field.name in columns else pa.nulls(count, field.type) for field in raw]
    rejects = _rejects(columns[schema.IMAGE], what, why, broken)
    return schema.mark_rejects(pa.Table.from_arrays(arrays, schema=raw), Stage.SOURCE, rejects)


def taken_of(columns: pa.Table, layout: Layout, shard: Shard, first: int) -> Mask:
    """bool [rows]: which rows are selected, by the columns that `where` names."""
    sound, broken = {}, set[int]()
    for field in layout.selection.fields:
        array, rows = _sound(columns.column(field.name).combine_chunks())
        sound[field.name] = _as(array, field.type, field.name, shard)
        broken |= set(rows)
    unreadable = np.zeros(columns.num_rows, bool)
    unreadable[list(broken)] = True  # each becomes a reject
    return layout.selection.takes(shard.name, first, columns.num_rows, pa.table(sound), unreadable)


def _image(batch: pa.RecordBatch, layout: Layout) -> pa.Array:
    image = batch.column(layout.images[0])
    if layout.leaf and not pa.types.is_null(image.type):
        image = pc.struct_field(image, layout.leaf)
    if pa.types.is_large_string(image.type):
        image = image.cast(pa.string())
    return image.cast(pa.binary())


def _sound(array: pa.Array) -> tuple[pa.Array, list[int]]:
    """The array with nulls for values that are not of its type, and their rows: Arrow reads text without a look."""
    if _valid(array):
        return array, []
    plain = array.cast(schema.plain(array.type))  # rows share a dictionary
    good = [row if _valid(plain.take(pa.array([row]))) else None for row in range(len(plain))]
    return plain.take(pa.array(good, pa.int64())), [row for row, at in enumerate(good) if at is None]


def _said(column: str, array: pa.Array, unsound: list[int]) -> dict[int, str]:
    return dict.fromkeys(unsound, f"{column} is no valid {array.type}; text must be UTF-8")


def _valid(array: pa.Array) -> bool:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _rejects(image: pa.Array, what: str, why: pa.Array, broken: dict[int, str]) -> dict[int, Reject]:
    """The rows without bytes, and those that are broken."""
    rejects: dict[int, Reject] = {}
    for row in np.flatnonzero(pc.is_null(image)).tolist():
        detail = why[row].as_py()
        rejects[row] = Reject(Reason.NO_IMAGE, what + (f": {detail}" if detail else ""))
    return rejects | {row: Reject(Reason.BAD_METADATA, message) for row, message in broken.items()}


def _as(array: pa.Array, kind: pa.DataType, column: str, shard: Shard) -> pa.Array:
    """In the layout's type, which is the first shard's: others may differ, within what Arrow converts."""
    try:
        return array if array.type == kind else array.cast(kind)
    except pa.ArrowException as exc:
        raise SourceError(
            f"{shard.entry.path}: column {column!r} is {array.type}, which is not {kind} as in the first shard: {exc}",
            ONE_TYPE,
        ) from exc
