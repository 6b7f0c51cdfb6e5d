"""What is left to read: the shards of the source less what the ledger says is committed, cut into read tasks."""

import sys
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from jobs.errors import ConfigError
from jobs.row_ranges import Coverage
from jobs.sources import Shard, Source, Unit, parquet
from jobs.storage import Storage

SPLIT_BYTES = 256 << 20  # a bigger Parquet file is read by several tasks, each some of its row groups
URL_SPLIT_BYTES = 4 << 20  # 20,000 urls or so, minutes of fetching: a row group is the least that a task can read
GROUP_BYTES = 32 << 20  # smaller shards share a task: starting one costs about 20 ms of two cores
_THREADS = 32

Task = tuple[Unit, ...]


@dataclass(frozen=True)
class Partition:
    """One of `count` disjoint parts of a source, from 1; a shard's part follows from its name alone, so shards that
    come later move no other."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Partition":
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise ConfigError(f"--part {text}: not of the form 2/8, from 1/8 to 8/8")
        return cls(int(index), int(count))

    def holds(self, shard: Shard) -> bool:
        return zlib.crc32(shard.name.encode()) % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def suffix(self) -> str:
        """What tells this part's `_lease` and `_progress` from the others'."""
        return f"-{self.index}of{self.count}" if self.count > 1 else ""


@dataclass(frozen=True)
class Work:
    """Read tasks, and how much of the source is already done."""

    tasks: tuple[Task, ...]
    shards: int
    shards_done: int
    rows_done: int
    bytes_left: int


def plan(
    storage: Storage, source: Source, coverage: Mapping[str, Coverage], *, cores: int, part: Partition | None = None
) -> Work:
    """Complete shards are neither opened nor listed again; of the others only the missing rows are computed."""
    shards = [shard for shard in source.shards if part is None or part.holds(shard)]
    done = {shard.name for shard in shards if coverage.get(shard.name, Coverage()).complete}
    left = [shard for shard in shards if shard.name not in done]
    with ThreadPoolExecutor(_THREADS) as pool:
        cut = pool.map(lambda shard: _units(storage, source, shard, coverage.get(shard.name, Coverage())), left)
        units = [unit for units in cut for unit in units]
    size = sum(shard.entry.size for shard in left)
    target = min(GROUP_BYTES, size // (4 * max(1, cores)))  # enough tasks for every core, before they are big enough
    return Work(
        tasks=tuple(_grouped(units, target)),
        shards=len(shards),
        shards_done=len(done),
        rows_done=sum(coverage[shard.name].count for shard in shards if shard.name in coverage),
        bytes_left=size,
    )


def _units(storage: Storage, source: Source, shard: Shard, have: Coverage) -> list[Unit]:
    split = {"parquet": SPLIT_BYTES, "urls": URL_SPLIT_BYTES}.get(source.layout.format, sys.maxsize)
    whole = Unit(shard, None, have.ranges, known=have.total or 0)
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
    if parts == [[]]:  # no readable footer: the reader says so
        return [whole]
    return [replace(whole, row_groups=tuple(part), last=part is parts[-1]) for part in parts]


def _grouped(units: Sequence[Unit], target: int) -> list[Task]:
    tasks: list[list[Unit]] = []
    size = target
    for unit in units:
        if size >= target:
            tasks.append([])
            size = 0
        tasks[-1].append(unit)
        size += unit.shard.entry.size if unit.row_groups is None else SPLIT_BYTES
    return [tuple(task) for task in tasks]
