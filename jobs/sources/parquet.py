"""Parquet shards with image bytes: COYO columns plus `image`, Hugging Face Image structs, img2dataset's `jpg`."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs import schema
from jobs.config import SourceConfig
from jobs.errors import Reason, SourceError, Stage
from jobs.provenance import Range, outside
from jobs.sources import BLOCK_BYTES, BLOCK_ROWS, Layout, Shard, Unit, end_of, first_of, unreadable
from jobs.storage import Storage

PREFETCH_LIMIT = 192 << 20  # a bigger row group is streamed column by column, not held whole


def describe(storage: Storage, shards: Sequence[Shard], config: SourceConfig) -> Layout:
    """The layout, from the first shard whose footer can be read."""
    for shard in shards:
        try:
            columns = pq.read_schema(storage.open(shard.entry))
        except (OSError, pa.ArrowException):
            continue  # a damaged shard is reported when it is read
        return _layout(columns, shard, config)
    raise SourceError(f"{config.path}: none of the {len(shards)} .parquet files has a readable footer")


def row_groups(storage: Storage, shard: Shard) -> list[tuple[int, int]]:
    """(rows, stored bytes) of each row group; empty for a file whose footer cannot be read."""
    try:
        footer = pq.read_metadata(storage.open(shard.entry))
    except (OSError, pa.ArrowException):
        return []
    return [_extent(footer.row_group(i)) for i in range(footer.num_row_groups)]


def read(storage: Storage, layout: Layout, unit: Unit) -> Iterator[pa.Table]:
    """The unit's rows, then the shard's end if its last row group is among them."""
    name = unit.shard.name
    try:
        file = pq.ParquetFile(storage.open(unit.shard.entry))
    except (OSError, pa.ArrowException) as exc:
        yield end_of(layout, name, 0, f"the Parquet footer cannot be read: {exc}")
        return
    groups = [_extent(file.metadata.row_group(i)) for i in range(file.num_row_groups)]
    damage = None
    for index in range(len(groups)) if unit.row_groups is None else unit.row_groups:
        first = sum(rows for rows, _ in groups[:index])
        rows, _ = groups[index]
        if not outside(np.arange(first, first + rows), unit.done).any():
            continue
        at = first
        try:
            for batch in _batches(storage, unit.shard, file.metadata, index, layout):
                yield _raw(batch, layout, name, at, unit.done)
                at += batch.num_rows
        except (OSError, pa.ArrowException) as exc:
            damage = f"row group {index} cannot be read from row {at}: {exc}"
            lost = np.arange(at, first + rows)
            yield unreadable(layout, name, lost[outside(lost, unit.done)].tolist(), damage)
    if damage or unit.row_groups is None or len(groups) - 1 in unit.row_groups:
        yield end_of(layout, name, file.metadata.num_rows, damage)


def _batches(
    storage: Storage, shard: Shard, footer: pq.FileMetaData, index: int, layout: Layout
) -> Iterator[pa.RecordBatch]:
    rows, size = _extent(footer.row_group(index))
    small = size <= PREFETCH_LIMIT
    options = {"pre_buffer": True} if small else {"pre_buffer": False, "buffer_size": BLOCK_BYTES}
    file = pq.ParquetFile(storage.open(shard.entry), metadata=footer, **options)
    count = max(1, min(BLOCK_ROWS, BLOCK_BYTES * rows // max(1, size)))
    _check(file.schema_arrow, shard, layout)
    yield from file.iter_batches(count, row_groups=[index], columns=_columns(layout), use_threads=False)


def _raw(batch: pa.RecordBatch, layout: Layout, shard: str, first: int, done: tuple[Range, ...]) -> pa.Table:
    count = batch.num_rows
    image = _image(batch, layout.images[0])
    missing = pc.is_null(image)
    why = batch.column(layout.error) if layout.error else pa.nulls(count, pa.string())
    rejects = _rejects(missing, why) if pc.any(missing).as_py() else {}
    columns: dict[str, Any] = {
        schema.SHARD: pa.repeat(shard, count),
        schema.ROW: pa.array(np.arange(first, first + count, dtype=np.int32)),
        schema.KEY: batch.column(layout.key) if layout.key else None,
        **{field.name: batch.column(field.name) for field in layout.kept},
        schema.END: pa.repeat(False, count),
        schema.TEXT: batch.column(layout.texts[0]) if layout.texts else None,
        schema.IMAGE: image,
        **rejects,
    }
    arrays = [_as(columns.get(field.name), field.type, count) for field in layout.schema]
    table = pa.Table.from_arrays(arrays, schema=layout.schema)
    keep = outside(np.arange(first, first + count), done)
    return table if keep.all() else table.filter(pa.array(keep))


def _rejects(missing: pa.Array, why: pa.Array) -> dict[str, pa.Array]:
    def where(value: str) -> pa.Array:
        return pc.if_else(missing, pa.scalar(value), pa.scalar(None, pa.string()))

    said = pc.coalesce(pc.binary_join_element_wise("the image bytes are null", why, ": "), "the image bytes are null")

    return {
        schema.STAGE: where(Stage.SOURCE.value),
        schema.REASON: where(Reason.NO_IMAGE.value),
        schema.MESSAGE: pc.if_else(missing, said, pa.scalar(None, pa.string())),
    }


def _image(batch: pa.RecordBatch, path: str) -> pa.Array:
    column, _, leaf = path.partition(".")
    array = batch.column(column)
    return pc.struct_field(array, leaf) if leaf else array


def _as(array: pa.Array | None, type: pa.DataType, count: int) -> pa.Array:
    if array is None:
        return pa.nulls(count, type)
    return array if array.type == type else array.cast(type)


def _columns(layout: Layout) -> list[str]:
    names = [*layout.images[:1], *layout.texts[:1], *filter(None, (layout.key, layout.error))]
    return list(dict.fromkeys([*names, *(field.name for field in layout.kept)]))


def _check(columns: pa.Schema, shard: Shard, layout: Layout) -> None:
    missing = [name for name in _columns(layout) if name.partition(".")[0] not in columns.names]
    if missing:
        raise SourceError(
            f"{shard.entry.path}: no column {missing[0]!r}, which the first shard has",
            f"this shard's columns: {', '.join(columns.names)}",
        )


def _extent(group: Any) -> tuple[int, int]:
    return group.num_rows, sum(group.column(i).total_compressed_size for i in range(group.num_columns))


def _layout(columns: pa.Schema, shard: Shard, config: SourceConfig) -> Layout:
    where = shard.entry.path
    image = first_of(
        config.image_column, [n for n in schema.IMAGE_NAMES if _leaf(columns, n) is not None], columns.names
    )
    if image is None or _leaf(columns, image) is None:
        raise SourceError(_no_image(columns, where, config), f"its columns: {', '.join(columns.names)}")
    text = first_of(config.text_column, schema.TEXT_NAMES, columns.names)
    key = first_of(config.key_column, schema.KEY_NAMES, columns.names)
    for option, wanted in (("text_column", config.text_column), ("key_column", config.key_column)):
        if wanted != "auto" and wanted not in columns.names:
            raise SourceError(
                f"{where}: no column {wanted!r} (source.{option})", f"its columns: {', '.join(columns.names)}"
            )
    if key and not _is_id(columns.field(key).type):
        raise SourceError(f"{where}: column {key!r} is {columns.field(key).type}, no id", "set source.key_column")
    if text and not _is_text(columns, text):
        raise SourceError(f"{where}: column {text!r} is {columns.field(text).type}, not text", "set source.text_column")
    leaf = _leaf(columns, image)
    return Layout(
        format="parquet",
        images=(f"{image}.{leaf}" if leaf else image,),
        texts=(text,) if text else (),
        key=key,
        key_type=columns.field(key).type if key else pa.string(),
        kept=_kept(columns, image, where, config),
        error=first_of("auto", [n for n in schema.ERROR_NAMES if _is_text(columns, n)], columns.names),
    )


def _leaf(columns: pa.Schema, name: str) -> str | None:
    """ "" for a column of bytes, "bytes" for a Hugging Face Image struct, None for anything else."""
    if name not in columns.names:
        return None
    kind = columns.field(name).type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return ""
    return "bytes" if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else None


def _is_text(columns: pa.Schema, name: str) -> bool:
    index = columns.get_field_index(name)
    kind = columns.types[index] if index >= 0 else pa.null()
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _no_image(columns: pa.Schema, where: str, config: SourceConfig) -> str:
    if config.image_column != "auto":
        return f"{where}: no column of image bytes named {config.image_column!r} (source.image_column)"
    if first_of("auto", schema.URL_NAMES, columns.names):
        return f"{where}: has urls but no image bytes; download them first, for example with img2dataset"
    return f"{where}: no column of image bytes; looked for {', '.join(schema.IMAGE_NAMES)}"


def _kept(columns: pa.Schema, image: str, where: str, config: SourceConfig) -> tuple[pa.Field, ...]:
    for name in config.keep:
        if name not in columns.names:
            raise SourceError(
                f"{where}: no column {name!r} to keep (source.keep)",
                f"its columns: {', '.join(columns.names)}; source.keep: [] keeps none",
            )
        if name == image:
            raise SourceError(f"{where}: {name!r} is the image column; image bytes are not copied to the output")
    return tuple(pa.field(name, columns.field(name).type) for name in config.keep)


def _is_id(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind)
        for is_kind in (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    )
