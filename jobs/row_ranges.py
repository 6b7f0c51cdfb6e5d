"""Half-open row ranges (start, stop) of shards: which rows are accounted for, and arithmetic on ranges."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from jobs import schema

Range = tuple[int, int]


@dataclass(frozen=True)
class Coverage:
    """The rows of one shard that are accounted for, in one Parquet object or in several together.

    `ranges` are sorted and disjoint; `total` is the shard's length, if known; `damage` describes why the shard ended
    early; `unselected` counts the rows in `ranges` that the recipe does not select.
    """

    ranges: tuple[Range, ...] = ()
    total: int | None = None
    damage: str | None = None
    unselected: int = 0

    @property
    def span(self) -> int:
        """Number of rows accounted for."""
        return sum(stop - start for start, stop in self.ranges)

    @property
    def count(self) -> int:
        """Number of rows with a result or a reject: those accounted for, less the unselected."""
        return self.span - self.unselected

    @property
    def complete(self) -> bool:
        return self.total is not None and self.ranges == (((0, self.total),) if self.total else ())

    def __or__(self, other: "Coverage") -> "Coverage":
        total = max((total for total in (self.total, other.total) if total is not None), default=None)
        unselected = self.unselected + other.unselected
        return Coverage(merge([*self.ranges, *other.ranges]), total, self.damage or other.damage, unselected)


def merge(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The union of the ranges, sorted, disjoint and not adjacent."""
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple(merged)


def to_ranges(rows: "np.ndarray[Any, Any]", since: "np.ndarray[Any, Any] | None" = None) -> tuple[Range, ...]:
    """The ranges of these row numbers, in any order. With `since`, row i stands for the rows since[i] to rows[i]."""
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
    """Coverage per shard of these rows, including the unselected rows that each accounts for."""
    rows = table.column(schema.ROW).to_numpy()
    since = table.column(schema.SINCE).to_numpy() if schema.SINCE in table.column_names else rows
    shards = table.column(schema.SHARD).combine_chunks().dictionary_encode()
    shard_ids = shards.indices.to_numpy(zero_copy_only=False)
    coverage: dict[str, Coverage] = {}
    for shard_id, name in enumerate(shards.dictionary.to_pylist()):
        mask = shard_ids == shard_id
        unselected = int((rows[mask] - since[mask]).sum())
        coverage[name] = Coverage(to_ranges(rows[mask], since[mask]), unselected=unselected)
    return coverage


def coverage_with_ends(rows: pa.Table, ends: pa.Table) -> dict[str, Coverage]:
    """Coverage per shard of these rows and these end markers."""
    coverage = coverage_by_shard(rows)
    for end in ends.select([schema.SHARD, schema.SINCE, schema.ROW, schema.TOTAL, schema.MESSAGE]).to_pylist():
        since, stop = end[schema.SINCE], end[schema.ROW]
        ranges = ((since, stop),) if since < stop else ()
        closed = Coverage(ranges, end[schema.TOTAL], end[schema.MESSAGE], stop - since)
        coverage[end[schema.SHARD]] = coverage.get(end[schema.SHARD], Coverage()) | closed
    return coverage


def subtract(ranges: Iterable[Range], removed: Sequence[Range]) -> tuple[Range, ...]:
    """The ranges without the removed ones. Both must be sorted and disjoint."""
    left: list[Range] = []
    for start, stop in ranges:
        for first, end in removed:
            if end <= start or first >= stop:
                continue
            if start < first:
                left.append((start, first))
            start = end
        if start < stop:
            left.append((start, stop))
    return tuple(left)


def outside(rows: "np.ndarray[Any, Any]", ranges: Iterable[Range]) -> "np.ndarray[Any, Any]":
    """Mask of the rows that are in none of the ranges: bool, same shape as `rows`."""
    keep = np.ones(rows.shape, bool)
    for start, stop in ranges:
        keep &= (rows < start) | (rows >= stop)
    return keep
