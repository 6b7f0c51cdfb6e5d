"""Convert the Arrow columns of a source to raw rows with the layout's types."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import schema
from jobs.errors import Reason, Reject, SourceError, Stage
from jobs.sources import Layout, Shard
from jobs.sources.columns import SAME_TYPES_HINT, source_columns, validated_columns
from jobs.sources.selection import Mask


def to_raw(batch: pa.RecordBatch, layout: Layout, shard: Shard, first: int) -> pa.Table:
    """Convert a batch to raw rows, numbered from `first`. Rows that cannot be read become rejects.

    Raises SourceError if a column cannot be converted to the layout's type.
    """
    count, raw = batch.num_rows, layout.schema
    rows = pa.array(np.arange(first, first + count, dtype=np.int32))
    columns: dict[str, Any] = {
        schema.SHARD: pa.repeat(shard.name, count),
        schema.ROW: rows,
        schema.SINCE: rows,
        schema.END: pa.repeat(False, count),
        schema.IMAGE: _image(batch, layout),
    }
    messages: dict[int, str] = {}
    for name, column in source_columns(layout).items():
        array, invalid = _null_invalid(batch.column(column))
        columns[name] = _cast(array, raw.field(name).type, column, shard)
        messages |= _invalid_messages(column, array, invalid)
    for column in [*validated_columns(layout), *(layout.image_names if layout.format == "urls" else ())]:
        messages |= _invalid_messages(column, *_null_invalid(batch.column(column)))
    details, _ = _null_invalid(batch.column(layout.error_column)) if layout.error_column else (pa.nulls(count), [])
    no_image = "the url is null" if layout.format == "urls" else "the image bytes are null"
    arrays = [columns[field.name] if field.name in columns else pa.nulls(count, field.type) for field in raw]
    rejects = _rejects(columns[schema.IMAGE], no_image, details, messages)
    return schema.mark_rejects(pa.Table.from_arrays(arrays, schema=raw), Stage.SOURCE, rejects)


def selected_mask(columns: pa.Table, layout: Layout, shard: Shard, first: int) -> Mask:
    """Mask of the selected rows, bool [rows], from the columns that `where` names."""
    valid, broken = {}, set[int]()
    for field in layout.selection.fields:
        array, rows = _null_invalid(columns.column(field.name).combine_chunks())
        valid[field.name] = _cast(array, field.type, field.name, shard)
        broken |= set(rows)
    unreadable = np.zeros(columns.num_rows, bool)
    unreadable[list(broken)] = True  # these rows are selected and become rejects
    return layout.selection.mask(shard.name, first, columns.num_rows, pa.table(valid), unreadable)


def _image(batch: pa.RecordBatch, layout: Layout) -> pa.Array:
    image = batch.column(layout.image_names[0])
    if layout.image_field and not pa.types.is_null(image.type):
        image = pc.struct_field(image, layout.image_field)
    if pa.types.is_large_string(image.type):
        image = image.cast(pa.string())
    return image.cast(pa.binary())


def _null_invalid(array: pa.Array) -> tuple[pa.Array, list[int]]:
    """Replace invalid values by nulls; also return their rows. Arrow does not check UTF-8 when it reads."""
    if _is_valid(array):
        return array, []
    plain = array.cast(schema.plain_type(array.type))  # many rows can share one dictionary entry
    indexes = [row if _is_valid(plain.take(pa.array([row]))) else None for row in range(len(plain))]
    return plain.take(pa.array(indexes, pa.int64())), [row for row, index in enumerate(indexes) if index is None]


def _invalid_messages(column: str, array: pa.Array, invalid: list[int]) -> dict[int, str]:
    return dict.fromkeys(invalid, f"{column} is not a valid {array.type}; text must be UTF-8")


def _is_valid(array: pa.Array) -> bool:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _rejects(image: pa.Array, no_image: str, details: pa.Array, messages: dict[int, str]) -> dict[int, Reject]:
    """A reject for each row without bytes (no_image) and each row with an invalid value (bad_metadata)."""
    rejects: dict[int, Reject] = {}
    for row in np.flatnonzero(pc.is_null(image)).tolist():
        detail = details[row].as_py()
        rejects[row] = Reject(Reason.NO_IMAGE, no_image + (f": {detail}" if detail else ""))
    return rejects | {row: Reject(Reason.BAD_METADATA, message) for row, message in messages.items()}


def _cast(array: pa.Array, kind: pa.DataType, column: str, shard: Shard) -> pa.Array:
    """Cast to the layout's type, which is the first shard's. Raises SourceError if Arrow cannot."""
    try:
        return array if array.type == kind else array.cast(kind)
    except pa.ArrowException as exc:
        raise SourceError(
            f"{shard.entry.path}: column {column!r} is {array.type}, not {kind} as in the first shard: {exc}",
            SAME_TYPES_HINT,
        ) from exc
