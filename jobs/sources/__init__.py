"""Sources: list the input as shards, and read a shard as a stream of raw rows.

A Layout holds all that is decided about the format, from the first readable shard, before anything runs. Readers are
plain generators of small Arrow tables (schema.raw), so tests of them need no Ray.
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
    """The rest of a shard or of a row group cannot be read. Never leaves its reader."""


@dataclass(frozen=True)
class Layout:
    """How to read every shard of a source.

    `image_names` is one column, or several tar suffixes in order of preference. `image_field` is the field with the
    bytes if that column is a struct. `error_column` explains why a row has no image. `kept` are the columns to copy to
    the output. `selection` chooses the rows.
    """

    format: str
    image_names: tuple[str, ...]
    text_names: tuple[str, ...]
    key: str | None
    key_type: pa.DataType
    kept: tuple[pa.Field, ...]
    error_column: str | None = None
    image_field: str = ""
    selection: Selection = EVERYTHING
    dataset: DatasetConfig | None = None

    @property
    def schema(self) -> pa.Schema:
        """Schema of the raw tables."""
        return schema.raw(self.key_type, self.kept)


@dataclass(frozen=True)
class Shard:
    """One input file. `name` is its stable address in the output. `max_rows` ends the shard early, for source.limit."""

    name: str
    entry: Entry
    max_rows: int | None = None


@dataclass(frozen=True)
class ReadUnit:
    """The work of one reader: a shard, or some row groups of a big one, except the rows in `done`.

    The `last` unit of a shard closes it. `known_total` is the shard's length when an earlier run closed it, else 0.
    """

    shard: Shard
    row_groups: tuple[int, ...] | None = None
    done: tuple[Range, ...] = ()
    last: bool = True
    known_total: int = 0


@dataclass(frozen=True)
class Source:
    """A listed source. `description` tells the user what was decided. `pinned_config` is the recipe's source section,
    resolved so that it means the same in the next run."""

    layout: Layout
    shards: tuple[Shard, ...]
    description: str
    pinned_config: SourceConfig


def unreadable_rows(layout: Layout, shard: str, first: int, count: int, message: str) -> pa.Table:
    """Rejects (shard_damaged) for rows that exist but cannot be read."""
    why = schema.reject(Stage.SOURCE, Reason.SHARD_DAMAGED, message)
    rows = range(first, first + count)
    return pa.Table.from_pylist(
        [{schema.SHARD: shard, schema.ROW: row, schema.SINCE: row, schema.END: False, **why} for row in rows],
        schema=layout.schema,
    )


def choose_name(configured: str, candidates: Iterable[str], present: Iterable[str]) -> str | None:
    """The configured name, or for "auto" the first candidate, that is present; else None."""
    names = list(present)
    return next((name for name in ([configured] if configured != "auto" else candidates) if name in names), None)
