"""Parquet shards with image bytes: COYO columns plus `image`, Hugging Face Image structs, img2dataset's `jpg`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from jobs.config import SourceConfig
from jobs.errors import SourceError
from jobs.row_ranges import outside
from jobs.sources import BLOCK_BYTES, BLOCK_ROWS, Damaged, Layout, Shard, Unit, unreadable
from jobs.sources.batches import raw_of, taken_of
from jobs.sources.columns import check, layout_of, needed
from jobs.sources.row_filter import RowFilter
from jobs.sources.selection import Mask
from jobs.storage import Storage

PREFETCH_LIMIT = 192 << 20  # a bigger row group is streamed column by column, not held whole
BROKEN = (OSError, UnicodeDecodeError, pa.ArrowException)  # what pyarrow raises for damaged files


def describe(storage: Storage, shards: Sequence[Shard], config: SourceConfig) -> Layout:
    """The layout, from the first shard whose footer can be read."""
    for shard in shards:
        try:
            columns = pq.read_schema(storage.open(shard.entry))
        except BROKEN:
            continue  # a damaged shard is reported when it is read
        return layout_of(columns, shard.entry.path, config)
    raise SourceError(f"{config.path}: none of the {len(shards)} .parquet files has a readable footer")


def row_groups(storage: Storage, shard: Shard) -> list[tuple[int, int]]:
    """(rows, stored bytes) of each row group; empty for a file whose footer cannot be read."""
    try:
        return _extents(_footer(storage, shard))
    except Damaged:
        return []


def selected(storage: Storage, layout: Layout, shard: Shard) -> Iterator[int]:
    """The numbers of the selected rows, in order, from the columns that say so alone."""
    unit = Unit(shard)
    try:
        footer = _footer(storage, shard)
        groups = _groups(storage, footer, layout, unit)
    except Damaged:
        return  # the shard's reader says so
    for group in groups:
        try:
            taken = _taken(storage, footer, layout, unit, group)
        except Damaged:
            taken = layout.selection.takes(shard.name, group.first, group.count, None)  # each one a reject
        yield from (np.flatnonzero(taken) + group.first).tolist()


def read(storage: Storage, layout: Layout, unit: Unit) -> Iterator[pa.Table]:
    """The unit's rows, then the shard's end: from its last unit, and from any that meets damage."""
    try:
        footer = _footer(storage, unit.shard)
        groups = _groups(storage, footer, layout, unit)
    except Damaged as exc:
        if unit.last:
            yield from RowFilter(layout, unit).close(0, f"the Parquet footer cannot be read: {exc}")
        return
    total = footer.num_rows if unit.shard.until is None else min(footer.num_rows, unit.shard.until)
    row_filter = RowFilter(layout, unit, groups[0].first if groups else total)
    damage = None
    for group in groups:
        at, left = group.first, outside(np.arange(group.first, group.stop), unit.done).any()
        taken = layout.selection.takes(unit.shard.name, at, group.count, None)  # should the columns be damaged
        try:
            taken = _taken(storage, footer, layout, unit, group) if left else np.zeros(group.count, bool)
            if not taken.any():
                yield row_filter.apply(at, taken)
                continue
            for batch in _batches(storage, unit.shard, footer, group, layout):
                here = taken[at - group.first :][: batch.num_rows]
                yield row_filter.apply(at, here, raw_of(batch.slice(0, here.size), layout, unit.shard, at))
                at += here.size
                if at == group.stop:  # which a limit may put inside a row group
                    break
        except Damaged as exc:
            damage = f"row group {group.index} cannot be read from row {at}: {exc}"
            lost = unreadable(layout, unit.shard.name, at, group.stop - at, damage)
            yield row_filter.apply(at, taken[at - group.first :], lost)
    if unit.last:
        yield from row_filter.close(total, damage)
    else:
        yield row_filter.end(groups[-1].stop if groups else total, total if damage else None, damage)


@dataclass(frozen=True)
class _Group:
    """A row group: rows `first` to `stop` of the shard; `matches` is false where its statistics rule it out."""

    index: int
    first: int
    stop: int
    stored: int
    matches: bool

    @property
    def count(self) -> int:
        return self.stop - self.first


def _groups(storage: Storage, footer: pq.FileMetaData, layout: Layout, unit: Unit) -> list[_Group]:
    extents = _extents(footer)
    ends = np.cumsum([0, *(rows for rows, _ in extents)]).tolist()
    until = ends[-1] if unit.shard.until is None else unit.shard.until
    matching = _matching(storage, layout, unit.shard, len(extents))
    return [
        _Group(i, ends[i], min(ends[i + 1], until), extents[i][1], i in matching)
        for i in (range(len(extents)) if unit.row_groups is None else unit.row_groups)
        if ends[i] < until
    ]


def _matching(storage: Storage, layout: Layout, shard: Shard, count: int) -> set[int]:
    """Row groups that may hold rows which `where` selects, by their statistics; all, where those do not fit it."""
    condition = layout.selection.condition
    if condition is None or condition.nulls:
        return set(range(count))
    try:
        fragment = ds.ParquetFileFormat().make_fragment(storage.open(shard.entry))
        kinds = pa.schema(layout.selection.fields)
        return {group.id for group in fragment.subset(condition.condition, schema=kinds).row_groups}
    except pa.ArrowException:  # a column of another type than the first shard's, say: its rows are looked at
        return set(range(count))
    except BROKEN as exc:
        raise Damaged(str(exc)) from exc


def _taken(storage: Storage, footer: pq.FileMetaData, layout: Layout, unit: Unit, group: _Group) -> Mask:
    """bool [rows]: which rows are selected, by the columns that `where` names and no others. Raises Damaged."""
    selection, name = layout.selection, unit.shard.name
    if not group.matches:
        return np.zeros(group.count, bool)
    if not selection.fields:
        return selection.takes(name, group.first, group.count, pa.table({}))
    try:
        file = pq.ParquetFile(storage.open(unit.shard.entry), metadata=footer, pre_buffer=True)
        check(file.schema_arrow, unit.shard.entry.path, selection.names)
        columns = file.read_row_group(group.index, columns=selection.names, use_threads=False)
    except BROKEN as exc:
        raise Damaged(str(exc)) from exc
    columns = columns.slice(0, group.count)
    if columns.num_rows != group.count:
        raise Damaged(f"it holds fewer rows than the footer's {group.count}")
    return taken_of(columns, layout, unit.shard, group.first)


def _footer(storage: Storage, shard: Shard) -> pq.FileMetaData:
    """Raises Damaged."""
    try:
        footer = pq.read_metadata(storage.open(shard.entry))
    except BROKEN as exc:
        raise Damaged(str(exc)) from exc
    rows = [rows for rows, _ in _extents(footer)]
    if sum(rows) != footer.num_rows or min(rows, default=0) < 0:  # one changed byte may promise billions
        raise Damaged(f"it says {footer.num_rows} rows, its row groups {sum(rows)}")
    return footer


def _extents(footer: pq.FileMetaData) -> list[tuple[int, int]]:
    return [_extent(footer.row_group(i)) for i in range(footer.num_row_groups)]


def _batches(
    storage: Storage, shard: Shard, footer: pq.FileMetaData, group: _Group, layout: Layout
) -> Iterator[pa.RecordBatch]:
    """The row group, never more rows than the footer says. Raises Damaged."""
    rows, size = footer.row_group(group.index).num_rows, group.stored
    seen = 0
    small = size <= PREFETCH_LIMIT
    options = {"pre_buffer": True} if small else {"pre_buffer": False, "buffer_size": BLOCK_BYTES}
    count = max(1, min(BLOCK_ROWS, BLOCK_BYTES * rows // max(1, size)))
    try:
        file = pq.ParquetFile(storage.open(shard.entry), metadata=footer, **options)
        check(file.schema_arrow, shard.entry.path, needed(layout), layout)
        for batch in file.iter_batches(count, row_groups=[group.index], columns=needed(layout), use_threads=False):
            seen += batch.num_rows
            if seen > rows:
                break
            yield batch
    except BROKEN as exc:
        raise Damaged(str(exc)) from exc
    if seen != rows:
        raise Damaged(f"it holds {'fewer' if seen < rows else 'more'} rows than the footer's {rows}")


def _extent(group: Any) -> tuple[int, int]:
    return group.num_rows, sum(group.column(i).total_compressed_size for i in range(group.num_columns))
