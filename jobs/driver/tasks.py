"""Plan the read tasks: the rows of the source that the ledger does not list as committed."""

import sys
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from jobs.errors import ConfigError
from jobs.row_ranges import Coverage
from jobs.sources import ReadUnit, Shard, Source, parquet
from jobs.storage import Storage

SPLIT_BYTES = 256 << 20  # several tasks share a bigger Parquet file: each reads some of its row groups
URL_SPLIT_BYTES = 4 << 20  # about 20,000 urls, minutes of fetching; a task reads at least one row group
GROUP_BYTES = 32 << 20  # smaller shards share a task: starting one costs about 20 ms of two cores
_THREADS = 32

Task = tuple[ReadUnit, ...]


@dataclass(frozen=True)
class Partition:
    """Part `index` of `count` disjoint parts of a source, from 1.

    A shard's part depends only on its name, so new shards do not move old ones to another part.
    """

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Partition":
        """Parse "I/N". Raises ConfigError."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise ConfigError(f"--part {text}: not I/N with I from 1 to N, such as 2/8")
        return cls(int(index), int(count))

    def contains(self, shard: Shard) -> bool:
        return zlib.crc32(shard.name.encode()) % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def suffix(self) -> str:
        """Suffix of this part's `_lease` and `_progress` files; "" for the whole source."""
        return f"-{self.index}of{self.count}" if self.count > 1 else ""


@dataclass(frozen=True)
class Work:
    """The read tasks of a run, and how much of the source is committed already."""

    tasks: tuple[Task, ...]
    shards: int
    shards_done: int
    rows_done: int
    bytes_left: int


def plan_tasks(
    storage: Storage, source: Source, coverage: Mapping[str, Coverage], *, cores: int, part: Partition | None = None
) -> Work:
    """Plan tasks for the missing rows of incomplete shards. Complete shards are not opened."""
    shards = [shard for shard in source.shards if part is None or part.contains(shard)]
    done = {shard.name for shard in shards if coverage.get(shard.name, Coverage()).complete}
    left = [shard for shard in shards if shard.name not in done]
    with ThreadPoolExecutor(_THREADS) as pool:
        units_by_shard = pool.map(
            lambda shard: _units(storage, source, shard, coverage.get(shard.name, Coverage())), left
        )
        units = [unit for units in units_by_shard for unit in units]
    size = sum(shard.entry.size for shard in left)
    target = min(GROUP_BYTES, size // (4 * max(1, cores)))  # first enough tasks for every core, then big tasks
    return Work(
        tasks=tuple(_group(units, target)),
        shards=len(shards),
        shards_done=len(done),
        rows_done=sum(coverage[shard.name].count for shard in shards if shard.name in coverage),
        bytes_left=size,
    )


def _units(storage: Storage, source: Source, shard: Shard, have: Coverage) -> list[ReadUnit]:
    split = {"parquet": SPLIT_BYTES, "urls": URL_SPLIT_BYTES}.get(source.layout.format, sys.maxsize)
    whole = ReadUnit(shard, None, have.ranges, known_total=have.total or 0)
    if shard.entry.size <= split:
        return [whole]
    parts: list[list[int]] = [[]]
    size = 0
    for index, (_, stored) in enumerate(parquet.row_groups(storage, shard)):
        if parts[-1] and size + stored > split:
            parts.append([])
            size = 0
        parts[-1].append(index)
        size += stored
    if parts == [[]]:  # no readable footer: the reader reports it
        return [whole]
    return [replace(whole, row_groups=tuple(part), last=part is parts[-1]) for part in parts]


def _group(units: Sequence[ReadUnit], target: int) -> list[Task]:
    tasks: list[list[ReadUnit]] = []
    size = target
    for unit in units:
        if size >= target:
            tasks.append([])
            size = 0
        tasks[-1].append(unit)
        size += unit.shard.entry.size if unit.row_groups is None else SPLIT_BYTES
    return [tuple(task) for task in tasks]
