"""Which input rows are committed, read from the footers of the objects in the output and nothing else."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import pyarrow.parquet as pq

from jobs import schema
from jobs.errors import OutputError
from jobs.output import footer
from jobs.output.layout import FOLDERS
from jobs.row_ranges import Coverage
from jobs.storage import Entry, Storage
from jobs.storage.paths import join_path


@dataclass(frozen=True)
class Object:
    """One committed Parquet object."""

    entry: Entry
    folder: str
    run: str
    job: str
    count: int
    shards: dict[str, Coverage]
    reasons: dict[str, int]

    @property
    def span(self) -> int:
        """Rows that it accounts for: `count` of them inside, the others not selected."""
        return sum(part.span for part in self.shards.values())


@dataclass(frozen=True)
class Ledger:
    """All committed objects of an output."""

    objects: tuple[Object, ...]

    @cached_property
    def coverage(self) -> dict[str, Coverage]:
        """What is committed of each shard, over all objects."""
        merged: dict[str, Coverage] = {}
        for name, part in ((name, part) for obj in self.objects for name, part in obj.shards.items()):
            merged[name] = merged.get(name, Coverage()) | part
        return merged

    def count(self, folder: str) -> int:
        return sum(obj.count for obj in self.objects if obj.folder == folder)

    @property
    def reasons(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for obj in self.objects:
            total.update(obj.reasons)
        return dict(total.most_common())

    def late(self, planned: "Ledger", run: str) -> list[Object]:
        """Objects that appeared after `run` was planned and are not its own: orphans of a run that died.

        Only those whose rows are all there without them: what `run` computed again.
        """
        known = {obj.entry.path for obj in planned.objects}
        mine = [obj for obj in self.objects if obj.run == run or obj.entry.path in known]
        others = [obj for obj in self.objects if obj.run != run and obj.entry.path not in known]
        covered = Ledger(tuple(mine)).coverage
        return [obj for obj in others if obj.shards and _within(obj, covered)]

    def overlapping(self) -> list[Object]:
        """Objects to drop so that no row is in two, or twice in one. Rows that only they had are missing then, and
        computed again."""
        twice = [obj for obj in self.objects if obj.count > sum(part.count for part in obj.shards.values())]
        if not twice and sum(obj.span for obj in self.objects) == sum(part.span for part in self.coverage.values()):
            return []
        kept: dict[str, Coverage] = {}
        dropped: list[Object] = []
        for obj in sorted(self.objects, key=lambda obj: (-obj.span, obj.entry.path)):
            if obj in twice or any(_meet(part, kept.get(name, Coverage())) for name, part in obj.shards.items()):
                dropped.append(obj)
                continue
            for name, part in obj.shards.items():
                kept[name] = kept.get(name, Coverage()) | part
        return dropped

    def without(self, dropped: Iterable[Object]) -> "Ledger":
        paths = {obj.entry.path for obj in dropped}
        return Ledger(tuple(obj for obj in self.objects if obj.entry.path not in paths))


def read(storage: Storage, path: str) -> Ledger:
    """Raises OutputError for an object that this system did not write or that is damaged."""
    listed = [(folder, entry) for folder in FOLDERS for entry in storage.tree(join_path(path, folder))]
    parquet = [(folder, entry) for folder, entry in listed if entry.path.endswith(".parquet")]
    footers = footer.read_footers(storage, (entry for _, entry in parquet), _damaged)
    return Ledger(tuple(_object(*item, found) for item, found in zip(parquet, footers, strict=True)))


def _damaged(entry: Entry, why: Exception) -> OutputError:
    hint = "delete it and run again: only its rows are computed again"
    return OutputError(f"{entry.path}: not a whole Parquet object ({why})", hint)


def _object(folder: str, entry: Entry, parquet: pq.FileMetaData) -> Object:
    provenance = (parquet.metadata or {}).get(schema.PROVENANCE.encode())
    if provenance is None:
        raise OutputError(f"{entry.path}: not written by coyo-jobs", "give the job an output folder of its own")
    shards, about = footer.decode_provenance(provenance)
    return Object(entry, folder, about["run"], about["job"], parquet.num_rows, shards, json.loads(about["reasons"]))


def _meet(one: Coverage, other: Coverage) -> bool:
    return (one | other).span < one.span + other.span


def _within(obj: Object, covered: dict[str, Coverage]) -> bool:
    have = ((part, covered.get(name, Coverage())) for name, part in obj.shards.items())
    return all((part | there).span == there.span and part.total in (None, there.total) for part, there in have)


def missing(coverage: dict[str, Coverage], shards: Iterable[str]) -> dict[str, str]:
    """What keeps the output from being complete, by shard; empty when every row is accounted for."""
    problems: dict[str, str] = {}
    for name in shards:
        have = coverage.get(name, Coverage())
        if have.total is None:
            problems[name] = f"{have.span} rows committed, its end not reached"
        elif not have.complete:
            problems[name] = f"{have.span} of {have.total} rows committed"
    return problems
