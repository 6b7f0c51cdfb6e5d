"""Shards of urls, as COYO is published: their rows are read like any Parquet, and then the images fetched.

Each raw table of the Parquet reader stays one table, and is given when the last of its urls is answered: the same rows
come in the same tables however often they are read, and a slow server holds up 128 rows, no more.
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

_HELD = 256 << 20  # bytes of images that wait for others of their table, before no more urls are taken


def fetched(tables: Iterable[pa.Table], config: FetchConfig) -> Iterator[pa.Table]:
    """Raw tables whose image column holds urls -> with the bytes there, or with rejects. Their order may change."""
    fetcher, waiting = _fetcher(config), _Waiting()
    left = iter(tables)
    while True:
        ended = True
        for place, result in fetcher.fetch(waiting.urls(left)):
            ended = False
            yield from waiting.answer(place, result)
        yield from waiting.idle()
        if ended and not waiting.full:
            return


@cache
def _fetcher(config: FetchConfig) -> Fetcher:
    """One for each process, kept for the next shard: connections and names are the expensive part."""
    fetcher = Fetcher(config)
    atexit.register(fetcher.close)
    return fetcher


@dataclass
class _Block:
    """A raw table, what its urls gave so far, and how many are not answered."""

    table: pa.Table
    answers: dict[int, bytes | Reject] = field(default_factory=dict)
    open: int = 0


class _Waiting:
    """The tables whose urls are under way."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[_Block, int]] = {}  # of the urls that are not answered
        self._ready: list[_Block] = []
        self._held = 0

    @property
    def full(self) -> bool:
        return self._held > _HELD

    def urls(self, tables: Iterator[pa.Table]) -> Iterator[str]:
        """The urls to fetch, table by table; ends early when too many bytes wait for others."""
        self._places, place = {}, 0
        for table in tables:
            block = _Block(table)
            urls, reasons = (table.column(name).to_pylist() for name in (schema.IMAGE, schema.REASON))
            rows = [row for row, url in enumerate(urls) if url is not None and reasons[row] is None]
            block.open = len(rows)
            if not rows:
                self._ready.append(block)
            for row in rows:
                self._places[place] = (block, row)
                place += 1
                yield urls[row].decode()
            if self.full:
                return

    def answer(self, place: int, result: bytes | Reject) -> Iterator[pa.Table]:
        block, row = self._places.pop(place)
        block.answers[row] = result
        block.open -= 1
        self._held += len(result) if isinstance(result, bytes) else 0
        if block.open == 0:
            self._ready.append(block)
        yield from self.idle()

    def idle(self) -> Iterator[pa.Table]:
        """The tables that wait for nothing."""
        ready, self._ready = self._ready, []
        for block in ready:
            self._held -= sum(len(given) for given in block.answers.values() if isinstance(given, bytes))
            yield _answered(block)


def _answered(block: _Block) -> pa.Table:
    table, answers = block.table, block.answers
    images = [answer if isinstance(answer := answers.get(row), bytes) else None for row in range(table.num_rows)]
    at = table.schema.get_field_index(schema.IMAGE)
    field = table.schema.field(at)
    table = table.set_column(at, field, pa.array(images, field.type))
    rejects = {row: answer for row, answer in answers.items() if isinstance(answer, Reject)}
    return schema.mark_rejects(table, Stage.FETCH, rejects)
