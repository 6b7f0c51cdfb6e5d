"""Row ranges of shards: which rows are accounted for, as half-open ranges (start, stop), and arithmetic on them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from jobs import schema

Range = tuple[int, int]


@dataclass(frozen=True)
class Coverage:
    """What one object, or all of them together, hold of one shard."""

    ranges: tuple[Range, ...] = ()
    total: int | None = None
    damage: str | None = None
    unselected: int = 0

    @property
    def span(self) -> int:
        """Rows that are accounted for."""
        return sum(stop - start for start, stop in self.ranges)

    @property
    def count(self) -> int:
        """Rows that are in an object."""
        return self.span - self.unselected

    @property
    def complete(self) -> bool:
        return self.total is not None and self.ranges == (((0, self.total),) if self.total else ())

    def __or__(self, other: "Coverage") -> "Coverage":
        total = max((total for total in (self.total, other.total) if total is not None), default=None)
        unselected = self.unselected + other.unselected
        return Coverage(merge([*self.ranges, *other.ranges]), total, self.damage or other.damage, unselected)


def merge(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Sorted, disjoint and not touching."""
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple(merged)


def ranges_of(rows: "np.ndarray[Any, Any]", since: "np.ndarray[Any, Any] | None" = None) -> tuple[Range, ...]:
    """The ranges that these row numbers, in any order, make up; each row from where it answers `since`."""
    if rows.size == 0:
        return ()
    order = np.argsort(rows, kind="stable")
    ordered = rows[order].astype(np.int64)
    starts = ordered if since is None else since[order].astype(np.int64)
    cuts = np.flatnonzero(starts[1:] > ordered[:-1] + 1)
    firsts = starts[np.concatenate(([0], cuts + 1))]
    stops = ordered[np.concatenate((cuts, [ordered.size - 1]))] + 1
    return tuple(zip(firsts.tolist(), stops.tolist(), strict=True))


def coverage_by_shard(table: pa.Table) -> dict[str, Coverage]:
    """What these rows, by their address columns and what they answer for, make up of each shard."""
    rows = table.column(schema.ROW).to_numpy()
    since = table.column(schema.SINCE).to_numpy() if schema.SINCE in table.column_names else rows
    names = table.column(schema.SHARD).combine_chunks().dictionary_encode()
    places = names.indices.to_numpy(zero_copy_only=False)
    found: dict[str, Coverage] = {}
    for place, name in enumerate(names.dictionary.to_pylist()):
        here = places == place
        unselected = int((rows[here] - since[here]).sum())
        found[name] = Coverage(ranges_of(rows[here], since[here]), unselected=unselected)
    return found


def coverage_with_ends(rows: pa.Table, ends: pa.Table) -> dict[str, Coverage]:
    """What these rows, and these ends of shards, make up of each shard."""
    found = coverage_by_shard(rows)
    for end in ends.select([schema.SHARD, schema.SINCE, schema.ROW, schema.TOTAL, schema.MESSAGE]).to_pylist():
        since, stop = end[schema.SINCE], end[schema.ROW]
        ranges = ((since, stop),) if since < stop else ()
        closed = Coverage(ranges, end[schema.TOTAL], end[schema.MESSAGE], stop - since)
        found[end[schema.SHARD]] = found.get(end[schema.SHARD], Coverage()) | closed
    return found


def subtract(ranges: Iterable[Range], gone: Sequence[Range]) -> tuple[Range, ...]:
    """The ranges less what is gone; both sorted and disjoint."""
    left: list[Range] = []
    for start, stop in ranges:
        for first, end in gone:
            if end <= start or first >= stop:
                continue
            if start < first:
                left.append((start, first))
            start = end
        if start < stop:
            left.append((start, stop))
    return tuple(left)


def outside(rows: "np.ndarray[Any, Any]", ranges: Iterable[Range]) -> "np.ndarray[Any, Any]":
    """bool, same shape: which of these rows are in none of the ranges."""
    keep = np.ones(rows.shape, bool)
    for start, stop in ranges:
        keep &= (rows < start) | (rows >= stop)
    return keep
