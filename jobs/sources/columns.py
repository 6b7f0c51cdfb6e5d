"""Choose the image, text, id and kept columns of a source of Arrow tables, from its first shard."""

from collections.abc import Sequence

import pyarrow as pa

from jobs import schema
from jobs.config import SourceConfig
from jobs.errors import SourceError
from jobs.sources import Layout, choose_name
from jobs.sources.selection import Selection

SAME_TYPES_HINT = "write every shard of a source with the same types"


def layout_from_columns(columns: pa.Schema, where: str, config: SourceConfig) -> Layout:
    """The layout for a source with these columns. Raises SourceError if one is missing or has a wrong type."""
    image, form = _image(columns, where, config)
    # auto takes only columns of a usable type; the log line of the source names them.
    texts = [name for name in schema.TEXT_NAMES if _is_text(columns, name)]
    keys = [name for name in schema.KEY_NAMES if name in columns.names and _is_id(columns.field(name).type)]
    text = choose_name(config.text_column, texts, columns.names)
    key = choose_name(config.key_column, keys, columns.names)
    for option, configured in (("text_column", config.text_column), ("key_column", config.key_column)):
        if configured != "auto" and configured not in columns.names:
            raise SourceError(
                f"{where}: no column {configured!r} (source.{option})", f"its columns: {', '.join(columns.names)}"
            )
    if key and not _is_id(columns.field(key).type):
        raise SourceError(f"{where}: column {key!r} is {columns.field(key).type}, not an id", "set source.key_column")
    if text and not _is_text(columns, text):
        raise SourceError(f"{where}: column {text!r} is {columns.field(text).type}, not text", "set source.text_column")
    return Layout(
        format=form,
        image_names=(image,),
        text_names=(text,) if text else (),
        key=key,
        key_type=schema.plain_type(columns.field(key).type) if key else pa.string(),
        kept=_kept(columns, image if form == "parquet" else "", where, config),
        error_column=choose_name("auto", [n for n in schema.ERROR_NAMES if _is_text(columns, n)], columns.names),
        image_field=_bytes_field(columns, image) or "",
        selection=Selection.from_config(
            config, {field.name: schema.plain_type(field.type) for field in columns}, where
        ),
    )


def source_columns(layout: Layout) -> dict[str, str]:
    """Map each raw column that is copied to its column in the source."""
    text = layout.text_names[0] if layout.text_names else None
    named = {schema.KEY: layout.key, **{field.name: field.name for field in layout.kept}, schema.TEXT: text}
    return {name: column for name, column in named.items() if column}


def validated_columns(layout: Layout) -> list[str]:
    """Text columns of `where` that are not copied: an invalid value in them, not UTF-8, makes the row a reject."""
    texts = [field.name for field in layout.selection.fields if schema.kind_of(field.type) == "text"]
    return [name for name in texts if name not in source_columns(layout).values()]


def columns_to_read(layout: Layout) -> list[str]:
    """All source columns that a reader needs."""
    columns = [
        layout.image_names[0],
        *source_columns(layout).values(),
        *validated_columns(layout),
        *filter(None, [layout.error_column]),
    ]
    return list(dict.fromkeys(columns))


def check_columns(columns: pa.Schema, where: str, required: Sequence[str], layout: Layout | None = None) -> None:
    """Check a later shard. Raises SourceError if it lacks a column or, with a layout, if its image column has another
    kind of type than in the first shard."""
    missing = [name for name in required if name not in columns.names]
    if missing:
        raise SourceError(
            f"{where}: no column {missing[0]!r}, which the first shard has",
            f"this shard's columns: {', '.join(columns.names)}",
        )
    if layout is None:
        return
    kind = columns.field(layout.image_names[0]).type
    if layout.format == "urls":
        if not _is_text(columns, layout.image_names[0]):
            raise SourceError(
                f"{where}: column {layout.image_names[0]!r} is {kind}, not text as in the first shard", SAME_TYPES_HINT
            )
        return
    if _bytes_field(columns, layout.image_names[0]) != layout.image_field and not pa.types.is_null(kind):
        expected = f"struct with {layout.image_field}" if layout.image_field else "binary"
        raise SourceError(
            f"{where}: column {layout.image_names[0]!r} is {kind}, not {expected} as in the first shard",
            SAME_TYPES_HINT,
        )


def _bytes_field(columns: pa.Schema, name: str) -> str | None:
    """ "" for a column of bytes, "bytes" for a Hugging Face Image struct, None for anything else."""
    if name not in columns.names:
        return None
    kind = columns.field(name).type
    if _is_bytes(kind):
        return ""
    index = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
    return "bytes" if index >= 0 and _is_bytes(kind.field(index).type) else None


def _is_bytes(kind: pa.DataType) -> bool:
    kind = schema.plain_type(kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(columns: pa.Schema, name: str) -> bool:
    index = columns.get_field_index(name)
    return index >= 0 and schema.kind_of(columns.types[index]) == "text"


def _image(columns: pa.Schema, where: str, config: SourceConfig) -> tuple[str, str]:
    """(column, format): a column of image bytes and "parquet", else one of urls and "urls". Raises SourceError."""
    hint = f"its columns: {', '.join(columns.names)}"
    if config.format in ("auto", "parquet"):
        candidates = [name for name in schema.IMAGE_NAMES if _bytes_field(columns, name) is not None]
        image = choose_name(config.image_column, candidates, columns.names)
        if image is not None and _bytes_field(columns, image) is not None:
            return image, "parquet"
        if config.image_column != "auto":
            missing = f"no column of image bytes named {config.image_column!r} (source.image_column)"
            raise SourceError(f"{where}: {missing}", hint)
    if config.format in ("auto", "urls"):
        texts = [name for name in schema.URL_NAMES if _is_text(columns, name)]
        url = choose_name(config.url_column, texts, columns.names)
        if url is not None and _is_text(columns, url):
            return url, "urls"
        if config.url_column != "auto":
            raise SourceError(f"{where}: no text column named {config.url_column!r} (source.url_column)", hint)
    if config.format == "parquet" and choose_name("auto", schema.URL_NAMES, columns.names):
        raise SourceError(f"{where}: has urls but no image bytes", "set source.format: urls to download them")
    searched = ", ".join(schema.URL_NAMES if config.format == "urls" else schema.IMAGE_NAMES)
    kind = {"urls": "urls", "parquet": "image bytes"}.get(config.format, "image bytes or urls")
    raise SourceError(f"{where}: no column of {kind}; looked for {searched}", hint)


def _kept(columns: pa.Schema, image: str, where: str, config: SourceConfig) -> tuple[pa.Field, ...]:
    for name in config.keep:
        if name not in columns.names:
            raise SourceError(
                f"{where}: no column {name!r} to keep (source.keep)",
                f"its columns: {', '.join(columns.names)}; source.keep: [] keeps none",
            )
        if name == image:
            raise SourceError(f"{where}: {name!r} is the image column, which cannot be kept")
    return tuple(pa.field(name, _without_views(columns.field(name).type)) for name in config.keep)


def _without_views(kind: pa.DataType) -> pa.DataType:
    """The source's type without views, which DataFusion writes and Arrow cannot filter or sort."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_without_views(field.type)) for field in kind.fields])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_without_views(kind.value_type)))
    return kind if pa.types.is_dictionary(kind) else schema.plain_type(kind)


def _is_id(kind: pa.DataType) -> bool:
    kind = schema.plain_type(kind)
    return any(
        is_kind(kind)
        for is_kind in (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    )
