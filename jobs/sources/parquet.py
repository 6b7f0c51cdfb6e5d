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
from jobs.sources import BLOCK_BYTES, BLOCK_ROWS, Damaged, Layout, ReadUnit, Shard, unreadable_rows
from jobs.sources.batches import selected_mask, to_raw
from jobs.sources.columns import check_columns, columns_to_read, layout_from_columns
from jobs.sources.row_filter import RowFilter
from jobs.sources.selection import Mask
from jobs.storage import Storage

PREFETCH_LIMIT = 192 << 20  # bytes; a larger row group is streamed, not prefetched
DAMAGE_ERRORS = (OSError, UnicodeDecodeError, pa.ArrowException)  # that pyarrow raises for damaged files


def choose_layout(storage: Storage, shards: Sequence[Shard], config: SourceConfig) -> Layout:
    """The layout, from the first shard with a readable footer. Raises SourceError."""
    for shard in shards:
        try:
            columns = pq.read_schema(storage.open(shard.entry))
        except DAMAGE_ERRORS:
            continue  # a damaged shard is reported when it is read
        return layout_from_columns(columns, shard.entry.path, config)
    raise SourceError(f"{config.path}: none of the {len(shards)} .parquet files has a readable footer")


def row_groups(storage: Storage, shard: Shard) -> list[tuple[int, int]]:
    """(rows, compressed bytes) of each row group; [] if the footer cannot be read."""
    try:
        return _extents(_footer(storage, shard))
    except Damaged:
        return []


def selected_rows(storage: Storage, layout: Layout, shard: Shard) -> Iterator[int]:
    """Yield the numbers of the selected rows, in order. Reads only the columns of `where`."""
    unit = ReadUnit(shard)
    try:
        footer = _footer(storage, shard)
        groups = _groups(storage, footer, layout, unit)
    except Damaged:
        return  # reported when the shard is read
    for group in groups:
        try:
            selected = _selected_mask(storage, footer, layout, unit, group)
        except Damaged:
            selected = layout.selection.mask(shard.name, group.first, group.count, None)  # its rows become rejects
        yield from (np.flatnonzero(selected) + group.first).tolist()


def read(storage: Storage, layout: Layout, unit: ReadUnit) -> Iterator[pa.Table]:
    """Yield the unit's rows, then the shard's end marker if this is its last unit, or if it found damage."""
    try:
        footer = _footer(storage, unit.shard)
        groups = _groups(storage, footer, layout, unit)
    except Damaged as exc:
        if unit.last:
            yield from RowFilter(layout, unit).close(0, f"the Parquet footer cannot be read: {exc}")
        return
    total = footer.num_rows if unit.shard.max_rows is None else min(footer.num_rows, unit.shard.max_rows)
    row_filter = RowFilter(layout, unit, groups[0].first if groups else total)
    damage = None
    for group in groups:
        at, unfinished = group.first, outside(np.arange(group.first, group.stop), unit.done).any()
        # Without the columns of `where`: used if they are damaged.
        selected = layout.selection.mask(unit.shard.name, at, group.count, None)
        try:
            selected = (
                _selected_mask(storage, footer, layout, unit, group) if unfinished else np.zeros(group.count, bool)
            )
            if not selected.any():
                yield row_filter.apply(at, selected)
                continue
            for batch in _batches(storage, unit.shard, footer, group, layout):
                mask = selected[at - group.first :][: batch.num_rows]
                yield row_filter.apply(at, mask, to_raw(batch.slice(0, mask.size), layout, unit.shard, at))
                at += mask.size
                if at == group.stop:  # source.limit can end inside a row group
                    break
        except Damaged as exc:
            damage = f"row group {group.index} cannot be read from row {at}: {exc}"
            rejects = unreadable_rows(layout, unit.shard.name, at, group.stop - at, damage)
            yield row_filter.apply(at, selected[at - group.first :], rejects)
    if unit.last:
        yield from row_filter.close(total, damage)
    else:
        yield row_filter.end(groups[-1].stop if groups else total, total if damage else None, damage)


@dataclass(frozen=True)
class _Group:
    """Rows `first` to `stop` of a shard, `stored` compressed bytes; `matches` is False if statistics exclude it."""

    index: int
    first: int
    stop: int
    stored: int
    matches: bool

    @property
    def count(self) -> int:
        return self.stop - self.first


def _groups(storage: Storage, footer: pq.FileMetaData, layout: Layout, unit: ReadUnit) -> list[_Group]:
    extents = _extents(footer)
    ends = np.cumsum([0, *(rows for rows, _ in extents)]).tolist()
    until = ends[-1] if unit.shard.max_rows is None else unit.shard.max_rows
    matching = _matching(storage, layout, unit.shard, len(extents))
    return [
        _Group(i, ends[i], min(ends[i + 1], until), extents[i][1], i in matching)
        for i in (range(len(extents)) if unit.row_groups is None else unit.row_groups)
        if ends[i] < until
    ]


def _matching(storage: Storage, layout: Layout, shard: Shard, count: int) -> set[int]:
    """Indexes of the row groups that may match `where`, by their statistics; all, if the statistics do not apply."""
    condition = layout.selection.condition
    if condition is None or condition.nulls:
        return set(range(count))
    try:
        fragment = ds.ParquetFileFormat().make_fragment(storage.open(shard.entry))
        kinds = pa.schema(layout.selection.fields)
        return {group.id for group in fragment.subset(condition.condition, schema=kinds).row_groups}
    except pa.ArrowException:  # for example a type that differs from the first shard's: check each row
        return set(range(count))
    except DAMAGE_ERRORS as exc:
        raise Damaged(str(exc)) from exc


def _selected_mask(storage: Storage, footer: pq.FileMetaData, layout: Layout, unit: ReadUnit, group: _Group) -> Mask:
    """Mask of the selected rows, bool [rows]; reads only the columns of `where`. Raises Damaged."""
    selection, name = layout.selection, unit.shard.name
    if not group.matches:
        return np.zeros(group.count, bool)
    if not selection.fields:
        return selection.mask(name, group.first, group.count, pa.table({}))
    try:
        file = pq.ParquetFile(storage.open(unit.shard.entry), metadata=footer, pre_buffer=True)
        check_columns(file.schema_arrow, unit.shard.entry.path, selection.column_names)
        columns = file.read_row_group(group.index, columns=selection.column_names, use_threads=False)
    except DAMAGE_ERRORS as exc:
        raise Damaged(str(exc)) from exc
    columns = columns.slice(0, group.count)
    if columns.num_rows != group.count:
        raise Damaged(f"it has fewer rows than the footer's {group.count}")
    return selected_mask(columns, layout, unit.shard, group.first)


def _footer(storage: Storage, shard: Shard) -> pq.FileMetaData:
    """Read and check the footer. Raises Damaged."""
    try:
        footer = pq.read_metadata(storage.open(shard.entry))
    except DAMAGE_ERRORS as exc:
        raise Damaged(str(exc)) from exc
    rows = [rows for rows, _ in _extents(footer)]
    if sum(rows) != footer.num_rows or min(rows, default=0) < 0:  # one flipped byte can claim billions
        raise Damaged(f"it has {footer.num_rows} rows, its row groups {sum(rows)}")
    return footer


def _extents(footer: pq.FileMetaData) -> list[tuple[int, int]]:
    return [_extent(footer.row_group(i)) for i in range(footer.num_row_groups)]


def _batches(
    storage: Storage, shard: Shard, footer: pq.FileMetaData, group: _Group, layout: Layout
) -> Iterator[pa.RecordBatch]:
    """Yield the row group in batches, never more rows than in the footer. Raises Damaged."""
    rows, size = footer.row_group(group.index).num_rows, group.stored
    seen = 0
    small = size <= PREFETCH_LIMIT
    options = {"pre_buffer": True} if small else {"pre_buffer": False, "buffer_size": BLOCK_BYTES}
    count = max(1, min(BLOCK_ROWS, BLOCK_BYTES * rows // max(1, size)))
    try:
        file = pq.ParquetFile(storage.open(shard.entry), metadata=footer, **options)
        check_columns(file.schema_arrow, shard.entry.path, columns_to_read(layout), layout)
        for batch in file.iter_batches(
            count, row_groups=[group.index], columns=columns_to_read(layout), use_threads=False
        ):
            seen += batch.num_rows
            if seen > rows:
                break
            yield batch
    except DAMAGE_ERRORS as exc:
        raise Damaged(str(exc)) from exc
    if seen != rows:
        raise Damaged(f"it has {'fewer' if seen < rows else 'more'} rows than the footer's {rows}")


def _extent(group: Any) -> tuple[int, int]:
    return group.num_rows, sum(group.column(i).total_compressed_size for i in range(group.num_columns))
