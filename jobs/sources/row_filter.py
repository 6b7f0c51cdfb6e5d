"""What is left of a unit's rows when the unselected and the finished ones are taken out, each row accounted for."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from jobs import schema
from jobs.row_ranges import outside
from jobs.sources import Layout, Unit, unreadable
from jobs.sources.selection import Mask

_LOST_ROWS = 4096  # of a shard at once


class RowFilter:
    """Sees every row of a unit, in order. Each row it keeps answers for the unselected ones before it."""

    def __init__(self, layout: Layout, unit: Unit, first: int = 0) -> None:
        self._layout, self._unit = layout, unit
        self._answered = first  # every row before this one is kept, finished, or answered for

    def apply(self, first: int, taken: Mask, table: pa.Table | None = None) -> pa.Table:
        """The rows from `first` on, by their raw `table`; without one, none of them is `taken`."""
        rows = np.arange(first, first + taken.size)
        left = outside(rows, self._unit.done)
        keep = taken & left
        # Behind each kept or finished row, a new stretch of unselected ones may begin.
        stops = np.where(keep | ~left, rows + 1, 0)
        since = np.maximum.accumulate(np.concatenate(([self._answered], stops)))
        self._answered = int(since[-1])
        stranded = ~left & (since[:-1] < rows)  # unselected ones, and then one that is finished: it cannot answer
        parts = [self._passing(int(a), int(b)) for a, b in zip(since[:-1][stranded], rows[stranded], strict=True)]
        if table is not None and keep.any():
            at = table.schema.get_field_index(schema.SINCE)
            table = table.set_column(at, self._layout.schema.field(at), pa.array(since[:-1], pa.int32()))
            parts.insert(0, table if keep.all() else table.filter(pa.array(keep)))
        return pa.concat_tables(parts) if parts else self._layout.schema.empty_table()

    def end(self, stop: int, total: int | None, damage: str | None = None) -> pa.Table:
        """The row that answers for what is left before `stop`; with a total it closes the shard."""
        if total is None and self._answered >= stop:
            return self._layout.schema.empty_table()
        return self._passing(min(self._answered, stop), stop, total, damage)

    def close(self, stop: int, damage: str | None = None) -> Iterator[pa.Table]:
        """The end of a shard of which `stop` rows can be read. Had it more when some of them were done, as one that was
        cut or replaced since, then it has those, and what is missing between them is lost.
        """
        shard = self._unit.shard
        total = stop if shard.until else max([stop, self._unit.known, *(end for _, end in self._unit.done)])
        if total > stop:
            damage = damage or f"it has {stop} rows, and had {total} when it was read before"
        for first in range(stop, total, _LOST_ROWS):
            count = min(_LOST_ROWS, total - first)
            taken = self._layout.selection.takes(shard.name, first, count, None)
            yield self.apply(first, taken, unreadable(self._layout, shard.name, first, count, str(damage)))
        yield self.end(total, total, damage)

    def _passing(self, since: int, stop: int, total: int | None = None, damage: str | None = None) -> pa.Table:
        row = {schema.SHARD: self._unit.shard.name, schema.SINCE: since, schema.ROW: stop}
        row |= {schema.END: True, schema.TOTAL: total, schema.MESSAGE: damage}
        return pa.Table.from_pylist([row], schema=self._layout.schema)
