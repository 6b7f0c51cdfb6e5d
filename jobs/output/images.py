"""Store the encoded images of good rows beside their results: `images/<name>` holds the images of `rows/<name>`.

An images object is a shard that this and other systems can read: Parquet with `image` and `text`, or a WebDataset tar.
`form` is the recipe's output.keep_images: "parquet" or "webdataset".
"""

import io
import json
import tarfile
import urllib.parse
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import schema

_MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp", b"II*\0": "tif", b"MM\0*": "tif"}
_ROW_GROUP = 64 << 20  # bytes: the memory that a reader needs for one row group


def object_name(rows: str, form: str) -> str:
    """The name of the images object for a rows object of this name."""
    return rows if form == "parquet" else f"{rows.removesuffix('.parquet')}.tar"


def pack(rows: pa.Table, form: str) -> memoryview:
    """Encode annotated rows, with their image column, as one shard."""
    return (_parquet if form == "parquet" else _tar)(rows.select(schema.images(rows.schema).names))


def count_images(file: Any, form: str) -> int:
    """Count the images in an open images object."""
    if form == "parquet":
        return int(pq.read_metadata(file).num_rows)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        return sum(member.name.endswith(f".{schema.JSON_SUFFIX}") for member in tar)


def _parquet(rows: pa.Table) -> memoryview:
    buffer = pa.BufferOutputStream()
    table = rows.rename_columns(schema.images_column_names(rows.schema)).replace_schema_metadata(None)
    group = max(1, _ROW_GROUP * table.num_rows // max(1, rows.nbytes))
    pq.write_table(table, buffer, compression="zstd", row_group_size=group)
    return memoryview(buffer.getvalue())


def _tar(rows: pa.Table) -> memoryview:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for row in rows.to_pylist():
            image, text = row.pop(schema.IMAGE), row.pop(schema.TEXT)
            stem = f"{_escaped(row[schema.SHARD])}-{row[schema.ROW]:09}"
            metadata = json.dumps(row, ensure_ascii=False, default=_json_value).encode()
            _add(tar, f"{stem}.{_suffix(image)}", image)
            _add(tar, f"{stem}.{schema.JSON_SUFFIX}", metadata)
            if text is not None:
                _add(tar, f"{stem}.txt", text.encode())
    return buffer.getbuffer()


def _escaped(shard: str) -> str:
    """Escape dots and slashes, which would end a sample's name; different shards keep different names."""
    return urllib.parse.quote(shard, safe="").replace(".", "%2E")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _suffix(image: bytes) -> str:
    if image[8:12] == b"WEBP":
        return "webp"
    return next((suffix for magic, suffix in _MAGIC.items() if image.startswith(magic)), "img")


def _json_value(value: Any) -> str:
    """Convert values that JSON does not have: dates, decimals and bytes."""
    return value.hex() if isinstance(value, bytes) else str(value)
