"""Which input rows an object holds, as written in its Parquet footer: the ledger's only source.

For each shard: the row ranges inside, half open; the shard's number of rows if its end passed through here; and
how the shard is damaged, if its reader found that.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import schema

Range = tuple[int, int]
_ROW_GROUP = 4096  # about 11 MB of embeddings: one read for a reader, little to hold


@dataclass(frozen=True)
class Coverage:
    """What one object, or all of them together, hold of one shard."""

    ranges: tuple[Range, ...] = ()
    total: int | None = None
    damage: str | None = None

    @property
    def count(self) -> int:
        return sum(stop - start for start, stop in self.ranges)

    @property
    def complete(self) -> bool:
        return self.total is not None and self.ranges == (((0, self.total),) if self.total else ())

    def __or__(self, other: "Coverage") -> "Coverage":
        total = self.total if other.total is None else other.total
        return Coverage(merge([*self.ranges, *other.ranges]), total, self.damage or other.damage)


def merge(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Sorted, disjoint and not touching."""
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple(merged)


def ranges_of(rows: "np.ndarray[Any, Any]") -> tuple[Range, ...]:
    """The ranges that these row numbers, in any order, make up."""
    if rows.size == 0:
        return ()
    ordered = np.unique(rows)
    cuts = np.flatnonzero(np.diff(ordered) != 1)
    starts = ordered[np.concatenate(([0], cuts + 1))]
    stops = ordered[np.concatenate((cuts, [ordered.size - 1]))] + 1
    return tuple(zip(starts.tolist(), stops.tolist(), strict=True))


def by_shard(table: pa.Table) -> dict[str, tuple[Range, ...]]:
    """The ranges of each shard that these rows, by their address columns, make up."""
    rows = table.column(schema.ROW).to_numpy()
    names = table.column(schema.SHARD).combine_chunks().dictionary_encode()
    places = names.indices.to_numpy(zero_copy_only=False)
    return {name: ranges_of(rows[places == place]) for place, name in enumerate(names.dictionary.to_pylist())}


def seal(table: pa.Table, metadata: Mapping[Any, Any]) -> memoryview:
    """The bytes of one Parquet object, with its footer."""
    buffer = pa.BufferOutputStream()
    table = table.replace_schema_metadata(metadata)
    pq.write_table(table, buffer, row_group_size=_ROW_GROUP, **encoding(table.schema))
    return memoryview(buffer.getvalue())


def encoding(columns: pa.Schema) -> dict[str, Any]:
    """How Parquet is written. Embeddings get no dictionary: it made them 4 % to 60 % bigger, and writing and reading
    them took twice as long.
    """
    repeating = [field for field in columns if not pa.types.is_fixed_size_list(field.type)]
    lists = [f"{field.name}.list.element" for field in repeating if pa.types.is_list(field.type)]
    return {"compression": "zstd", "use_dictionary": [*lists, *(field.name for field in repeating)]}


def outside(rows: "np.ndarray[Any, Any]", ranges: Iterable[Range]) -> "np.ndarray[Any, Any]":
    """bool, same shape: which of these rows are in none of the ranges."""
    keep = np.ones(rows.shape, bool)
    for start, stop in ranges:
        keep &= (rows < start) | (rows >= stop)
    return keep


def encode(shards: dict[str, Coverage], **about: str) -> bytes:
    body = {name: {"ranges": c.ranges, "total": c.total, "damage": c.damage} for name, c in shards.items()}
    return json.dumps({**about, "shards": body}, separators=(",", ":")).encode()


def decode(data: bytes) -> tuple[dict[str, Coverage], dict[str, str]]:
    """The coverage by shard, and what else was said about the object."""
    body = json.loads(data)
    shards = {
        name: Coverage(tuple((a, b) for a, b in c["ranges"]), c["total"], c["damage"])
        for name, c in body.pop("shards").items()
    }
    return shards, body
