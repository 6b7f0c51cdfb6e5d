"""Fetch single rows from the source by their address, for those who look at a finished output."""

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


def fetch(
    storage: Storage, source: Source, wanted: Collection[Address], config: FetchConfig
) -> dict[Address, tuple[str | None, bytes]]:
    """(text, image bytes) of the rows that have an image; each shard is read up to the last row wanted of it."""
    found: dict[Address, tuple[str | None, bytes]] = {}
    rows: dict[str, set[int]] = {}
    for name, row in wanted:
        rows.setdefault(name, set()).add(row)
    for shard in (shard for shard in source.shards if shard.name in rows):
        tables: Iterable[pa.Table] = _holding(read(storage, source.layout, Unit(shard)), rows[shard.name])
        if source.layout.format == "urls":
            tables = fetched(tables, config)
        for table in tables:
            for one in table.select([schema.ROW, schema.TEXT, schema.IMAGE]).to_pylist():
                if one[schema.IMAGE] is not None:
                    found[shard.name, one[schema.ROW]] = (one[schema.TEXT], one[schema.IMAGE])
    return found


def _holding(tables: Iterable[pa.Table], rows: set[int]) -> Iterator[pa.Table]:
    """Of the tables only these rows, and no tables behind the last one."""
    left = set(rows)
    for table in tables:
        here = table.filter(
            pc.and_not(pc.is_in(table.column(schema.ROW), pa.array(list(rows), pa.int32())), table.column(schema.END))
        )
        if here.num_rows:
            yield here
        left -= set(here.column(schema.ROW).to_pylist())
        if not left:
            return
