"""Remove the unselected and the finished rows of a unit, and account for every row."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from jobs import schema
from jobs.row_ranges import outside
from jobs.sources import Layout, ReadUnit, unreadable_rows
from jobs.sources.selection import Mask

_LOST_ROWS = 4096  # per table


class RowFilter:
    """Filters the rows of a unit, in order. Each kept row accounts for the unselected rows directly before it."""

    def __init__(self, layout: Layout, unit: ReadUnit, first: int = 0) -> None:
        self._layout, self._unit = layout, unit
        self._accounted = first  # all rows before this one are kept, finished or accounted for

    def apply(self, first: int, selected: Mask, table: pa.Table | None = None) -> pa.Table:
        """Filter the rows from `first` on. `selected` is bool [rows]; `table` has the raw rows, or is None for none."""
        rows = np.arange(first, first + selected.size)
        left = outside(rows, self._unit.done)
        keep = selected & left
        # A range of unselected rows can begin after each kept or finished row.
        stops = np.where(keep | ~left, rows + 1, 0)
        since = np.maximum.accumulate(np.concatenate(([self._accounted], stops)))
        self._accounted = int(since[-1])
        stranded = ~left & (since[:-1] < rows)  # unselected rows before a finished one, which cannot account for them
        parts = [self._marker(int(a), int(b)) for a, b in zip(since[:-1][stranded], rows[stranded], strict=True)]
        if table is not None and keep.any():
            index = table.schema.get_field_index(schema.SINCE)
            table = table.set_column(index, self._layout.schema.field(index), pa.array(since[:-1], pa.int32()))
            parts.insert(0, table if keep.all() else table.filter(pa.array(keep)))
        return pa.concat_tables(parts) if parts else self._layout.schema.empty_table()

    def end(self, stop: int, total: int | None, damage: str | None = None) -> pa.Table:
        """A marker that accounts for the remaining rows before `stop`; with a total it closes the shard."""
        if total is None and self._accounted >= stop:
            return self._layout.schema.empty_table()
        return self._marker(min(self._accounted, stop), stop, total, damage)

    def close(self, stop: int, damage: str | None = None) -> Iterator[pa.Table]:
        """Close a shard after its `stop` readable rows. If it had more rows in an earlier run, and was truncated or
        replaced since, the missing rows that are not done become rejects.
        """
        shard = self._unit.shard
        total = stop if shard.max_rows else max([stop, self._unit.known_total, *(end for _, end in self._unit.done)])
        if total > stop:
            damage = damage or f"it has {stop} rows, but had {total} in an earlier run"
        for first in range(stop, total, _LOST_ROWS):
            count = min(_LOST_ROWS, total - first)
            selected = self._layout.selection.mask(shard.name, first, count, None)
            yield self.apply(first, selected, unreadable_rows(self._layout, shard.name, first, count, str(damage)))
        yield self.end(total, total, damage)

    def _marker(self, since: int, stop: int, total: int | None = None, damage: str | None = None) -> pa.Table:
        row = {schema.SHARD: self._unit.shard.name, schema.SINCE: since, schema.ROW: stop}
        row |= {schema.END: True, schema.TOTAL: total, schema.MESSAGE: damage}
        return pa.Table.from_pylist([row], schema=self._layout.schema)
