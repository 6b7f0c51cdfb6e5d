"""Read single rows of a source by address (shard, row), for example to look at a finished output."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from jobs import schema
from jobs.config import FetchConfig
from jobs.sources import ReadUnit, Source
from jobs.sources.discover import read
from jobs.sources.urls import fetch_images
from jobs.storage import Storage

Address = tuple[str, int]
_IMAGE_COLUMNS = (schema.ROW, schema.IMAGE)


def read_rows(
    storage: Storage,
    source: Source,
    addresses: Collection[Address],
    config: FetchConfig,
    image_addresses: Collection[Address] | None = None,
) -> tuple[dict[Address, str | None], dict[Address, bytes]]:
    """Return (texts of these rows, encoded images of those in `image_addresses`, by default of all).

    Rows without an image are missing in the images. Each shard is read only up to its last row in `addresses`, and
    only the urls of requested images are downloaded.
    """
    texts: dict[Address, str | None] = {}
    images: dict[Address, bytes] = {}
    rows = _by_shard(addresses)
    image_rows = _by_shard(addresses if image_addresses is None else image_addresses)
    for shard in (shard for shard in source.shards if shard.name in rows):
        tables = _read_until(read(storage, source.layout, ReadUnit(shard)), rows[shard.name])
        tables = _collect_texts(tables, shard.name, texts, image_rows[shard.name])
        for table in fetch_images(tables, config) if source.layout.format == "urls" else tables:
            present = table.filter(pc.is_valid(table.column(schema.IMAGE)))
            for row, image in zip(*(present.column(name).to_pylist() for name in _IMAGE_COLUMNS), strict=True):
                images[shard.name, row] = image
    return texts, images


def _by_shard(addresses: Collection[Address]) -> defaultdict[str, set[int]]:
    rows: defaultdict[str, set[int]] = defaultdict(set)
    for shard, row in addresses:
        rows[shard].add(row)
    return rows


def _collect_texts(
    tables: Iterable[pa.Table], shard: str, texts: dict[Address, str | None], image_rows: set[int]
) -> Iterator[pa.Table]:
    """Store the texts of all rows in `texts`; yield only the rows whose images are requested."""
    for table in tables:
        for row, text in zip(*(table.column(name).to_pylist() for name in (schema.ROW, schema.TEXT)), strict=True):
            texts[shard, row] = text
        yield _filter_rows(table, image_rows)


def _read_until(tables: Iterable[pa.Table], rows: set[int]) -> Iterator[pa.Table]:
    """Yield only these rows of the tables; stop after the last one."""
    left = set(rows)
    for table in tables:
        selected = _filter_rows(table.filter(pc.invert(table.column(schema.END))), rows)
        if selected.num_rows:
            yield selected
        left -= set(selected.column(schema.ROW).to_pylist())
        if not left:
            return


def _filter_rows(table: pa.Table, rows: set[int]) -> pa.Table:
    return table.filter(pc.is_in(table.column(schema.ROW), pa.array(list(rows), pa.int32())))
