"""Shards of urls, as COYO is published: the Parquet reader reads the rows, then this module downloads the images.

Each raw table of the Parquet reader stays one table, and is yielded once all its urls have results. So a table
always has the same rows, and a slow server delays at most 128 of them.
"""

import atexit
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache

import pyarrow as pa

from jobs import schema
from jobs.config import FetchConfig
from jobs.errors import Reject, Stage
from jobs.fetch import Fetcher

_MAX_HELD = 256 << 20  # bytes of images in incomplete tables; above this, no further tables are read


def fetch_images(tables: Iterable[pa.Table], config: FetchConfig) -> Iterator[pa.Table]:
    """Replace the urls in the image column by image bytes, or the rows by rejects. May reorder the tables."""
    fetcher, pending = _fetcher(config), _PendingTables()
    remaining = iter(tables)
    while True:
        ended = True
        for index, result in fetcher.fetch(pending.urls(remaining)):
            ended = False
            yield from pending.add_result(index, result)
        yield from pending.take_complete()
        if ended and not pending.full:
            return


@cache
def _fetcher(config: FetchConfig) -> Fetcher:
    """One fetcher per process, kept for the next shard: connections and DNS lookups are expensive."""
    fetcher = Fetcher(config)
    atexit.register(fetcher.close)
    return fetcher


@dataclass
class _PendingTable:
    """A raw table, the results of its urls by row, and the number of urls without a result."""

    table: pa.Table
    results: dict[int, bytes | Reject] = field(default_factory=dict)
    missing: int = 0


class _PendingTables:
    """The tables with urls in flight."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[_PendingTable, int]] = {}  # (table, row) of each url without a result
        self._complete: list[_PendingTable] = []
        self._held = 0

    @property
    def full(self) -> bool:
        return self._held > _MAX_HELD

    def urls(self, tables: Iterator[pa.Table]) -> Iterator[str]:
        """Yield the urls to fetch, table by table; stop early when incomplete tables hold too many bytes."""
        self._rows, index = {}, 0
        for table in tables:
            pending = _PendingTable(table)
            urls, reasons = (table.column(name).to_pylist() for name in (schema.IMAGE, schema.REASON))
            rows = [row for row, url in enumerate(urls) if url is not None and reasons[row] is None]
            pending.missing = len(rows)
            if not rows:
                self._complete.append(pending)
            for row in rows:
                self._rows[index] = (pending, row)
                index += 1
                yield urls[row].decode()
            if self.full:
                return

    def add_result(self, index: int, result: bytes | Reject) -> Iterator[pa.Table]:
        """Store the result of one url; yield the tables that are complete."""
        pending, row = self._rows.pop(index)
        pending.results[row] = result
        pending.missing -= 1
        self._held += len(result) if isinstance(result, bytes) else 0
        if pending.missing == 0:
            self._complete.append(pending)
        yield from self.take_complete()

    def take_complete(self) -> Iterator[pa.Table]:
        """Yield the complete tables."""
        complete, self._complete = self._complete, []
        for pending in complete:
            self._held -= sum(len(result) for result in pending.results.values() if isinstance(result, bytes))
            yield _with_results(pending)


def _with_results(pending: _PendingTable) -> pa.Table:
    table, results = pending.table, pending.results
    images = [result if isinstance(result := results.get(row), bytes) else None for row in range(table.num_rows)]
    index = table.schema.get_field_index(schema.IMAGE)
    field = table.schema.field(index)
    table = table.set_column(index, field, pa.array(images, field.type))
    rejects = {row: result for row, result in results.items() if isinstance(result, Reject)}
    return schema.mark_rejects(table, Stage.FETCH, rejects)
