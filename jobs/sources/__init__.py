"""Where rows come from: a listing becomes shards, and a shard becomes a stream of raw rows.

Everything about a format that can be known from one shard is decided once, in a Layout, before anything runs.
Readers are plain generators of small Arrow tables (schema.raw), so they need no Ray to be tested.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from jobs import schema
from jobs.config import DatasetConfig, SourceConfig
from jobs.errors import Reason, Stage
from jobs.row_ranges import Range
from jobs.sources.selection import EVERYTHING, Selection
from jobs.storage import Entry

BLOCK_BYTES = 8 << 20  # encoded bytes in one raw table
BLOCK_ROWS = 128


class Damaged(Exception):
    """The shard, or the row group, cannot be read further. Never leaves its reader."""


@dataclass(frozen=True)
class Layout:
    """How to read every shard of a source. `images` are a column or tar suffixes; `leaf` is the field with the bytes
    where that column holds structs; `error` is a column that says why a row has no image; `selection` says which rows
    are wanted.
    """

    format: str
    images: tuple[str, ...]
    texts: tuple[str, ...]
    key: str | None
    key_type: pa.DataType
    kept: tuple[pa.Field, ...]
    error: str | None = None
    leaf: str = ""
    selection: Selection = EVERYTHING
    dataset: DatasetConfig | None = None

    @property
    def schema(self) -> pa.Schema:
        return schema.raw(self.key_type, self.kept)


@dataclass(frozen=True)
class Shard:
    """One input file. `name` is its stable address in the output; with `until`, it counts as so many rows long."""

    name: str
    entry: Entry
    until: int | None = None


@dataclass(frozen=True)
class Unit:
    """What one reader reads: a shard, or some row groups of a big one, less the rows that are already done. The last
    unit of a shard closes it; `known` rows it had when it was closed before.
    """

    shard: Shard
    row_groups: tuple[int, ...] | None = None
    done: tuple[Range, ...] = ()
    last: bool = True
    known: int = 0


@dataclass(frozen=True)
class Source:
    """A corpus, listed and understood. `said` is what was decided about it, for the user; `pinned` is its section of
    the recipe, so that it means the same in the next run."""

    layout: Layout
    shards: tuple[Shard, ...]
    said: str
    pinned: SourceConfig


def unreadable(layout: Layout, shard: str, first: int, count: int, message: str) -> pa.Table:
    """Rows that are known to exist and cannot be read."""
    why = schema.reject(Stage.SOURCE, Reason.SHARD_DAMAGED, message)
    rows = range(first, first + count)
    return pa.Table.from_pylist(
        [{schema.SHARD: shard, schema.ROW: row, schema.SINCE: row, schema.END: False, **why} for row in rows],
        schema=layout.schema,
    )


def first_of(wanted: str, automatic: Iterable[str], present: Iterable[str]) -> str | None:
    """The configured name if it is there, or the first automatic one that is."""
    names = list(present)
    return next((name for name in ([wanted] if wanted != "auto" else automatic) if name in names), None)
