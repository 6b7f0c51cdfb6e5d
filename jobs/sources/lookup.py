"""Fetch single rows from the source by their address, for those who look at a finished output."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from jobs import schema
from jobs.config import FetchConfig
from jobs.sources import Source, Unit
from jobs.sources.discover import read
from jobs.sources.urls import fetched
from jobs.storage import Storage

Address = tuple[str, int]
_WANTED = (schema.ROW, schema.IMAGE)


def read_rows(
    storage: Storage,
    source: Source,
    wanted: Collection[Address],
    config: FetchConfig,
    pictures: Collection[Address] | None = None,
) -> tuple[dict[Address, str | None], dict[Address, bytes]]:
    """(the texts of the wanted rows, the images of those among them that are `pictures`, or of all that have one). Each
    shard is read up to the last row wanted of it; of urls no others are asked."""
    texts: dict[Address, str | None] = {}
    images: dict[Address, bytes] = {}
    rows, drawn = _by_shard(wanted), _by_shard(wanted if pictures is None else pictures)
    for shard in (shard for shard in source.shards if shard.name in rows):
        tables = _holding(read(storage, source.layout, Unit(shard)), rows[shard.name])
        tables = _noting(tables, shard.name, texts, drawn[shard.name])
        for table in fetched(tables, config) if source.layout.format == "urls" else tables:
            found = table.filter(pc.is_valid(table.column(schema.IMAGE)))
            for row, image in zip(*(found.column(name).to_pylist() for name in _WANTED), strict=True):
                images[shard.name, row] = image
    return texts, images


def _by_shard(addresses: Collection[Address]) -> defaultdict[str, set[int]]:
    rows: defaultdict[str, set[int]] = defaultdict(set)
    for shard, row in addresses:
        rows[shard].add(row)
    return rows


def _noting(
    tables: Iterable[pa.Table], shard: str, texts: dict[Address, str | None], drawn: set[int]
) -> Iterator[pa.Table]:
    """The texts of all rows are noted; those that are drawn go on."""
    for table in tables:
        for row, text in zip(*(table.column(name).to_pylist() for name in (schema.ROW, schema.TEXT)), strict=True):
            texts[shard, row] = text
        yield _of(table, drawn)


def _holding(tables: Iterable[pa.Table], rows: set[int]) -> Iterator[pa.Table]:
    """Of the tables only these rows, and no tables behind the last one."""
    left = set(rows)
    for table in tables:
        here = _of(table.filter(pc.invert(table.column(schema.END))), rows)
        if here.num_rows:
            yield here
        left -= set(here.column(schema.ROW).to_pylist())
        if not left:
            return


def _of(table: pa.Table, rows: set[int]) -> pa.Table:
    return table.filter(pc.is_in(table.column(schema.ROW), pa.array(list(rows), pa.int32())))
