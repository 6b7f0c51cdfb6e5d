"""Fetch single rows from the source by their address, for those who look at a finished output."""

from collections.abc import Collection

from jobs import schema
from jobs.sources import Source, Unit
from jobs.sources.discover import read
from jobs.storage import Storage

Address = tuple[str, int]


def fetch(storage: Storage, source: Source, wanted: Collection[Address]) -> dict[Address, tuple[str | None, bytes]]:
    """(text, image bytes) of the rows that have an image; each shard is read up to the last row wanted of it."""
    found: dict[Address, tuple[str | None, bytes]] = {}
    for shard in source.shards:
        missing = {row for name, row in wanted if name == shard.name}
        tables = read(storage, source.layout, Unit(shard)) if missing else iter(())
        for table in tables:
            for row in table.select([schema.ROW, schema.TEXT, schema.IMAGE]).to_pylist():
                if row[schema.ROW] in missing and row[schema.IMAGE] is not None:
                    found[shard.name, row[schema.ROW]] = (row[schema.TEXT], row[schema.IMAGE])
                    missing.discard(row[schema.ROW])
            if not missing:
                break
    return found
