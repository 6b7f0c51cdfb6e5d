"""The ledger: which input rows are committed. It is read only from the footers of the output's objects."""

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
class OutputObject:
    """One committed Parquet object: the run and job that wrote it, its coverage by shard, its rejects by reason."""

    entry: Entry
    folder: str
    run: str
    job: str
    num_rows: int
    shards: dict[str, Coverage]
    reasons: dict[str, int]

    @property
    def span(self) -> int:
        """Input rows that the object accounts for: it holds `num_rows` of them, the others were not selected."""
        return sum(part.span for part in self.shards.values())


@dataclass(frozen=True)
class Ledger:
    """All committed objects of an output."""

    objects: tuple[OutputObject, ...]

    @cached_property
    def coverage(self) -> dict[str, Coverage]:
        """The coverage of each shard, merged over all objects."""
        merged: dict[str, Coverage] = {}
        for name, part in ((name, part) for obj in self.objects for name, part in obj.shards.items()):
            merged[name] = merged.get(name, Coverage()) | part
        return merged

    def count_rows(self, folder: str) -> int:
        """Rows in the objects of a folder, "rows" or "rejects"."""
        return sum(obj.num_rows for obj in self.objects if obj.folder == folder)

    @property
    def reasons(self) -> dict[str, int]:
        """Rejected rows by reason, the most frequent first."""
        total: Counter[str] = Counter()
        for obj in self.objects:
            total.update(obj.reasons)
        return dict(total.most_common())

    def late(self, planned: "Ledger", run: str) -> list[OutputObject]:
        """Duplicates that another run, which had died, wrote after `run` was planned.

        An object is late only if all its rows are committed without it, because `run` computed them again.
        """
        known = {obj.entry.path for obj in planned.objects}
        mine = [obj for obj in self.objects if obj.run == run or obj.entry.path in known]
        others = [obj for obj in self.objects if obj.run != run and obj.entry.path not in known]
        covered = Ledger(tuple(mine)).coverage
        return [obj for obj in others if obj.shards and _is_covered(obj, covered)]

    def overlapping(self) -> list[OutputObject]:
        """Objects to drop so that no row is committed twice, in two objects or in one.

        A row that only a dropped object holds is missing afterwards. Larger objects are kept first.
        """
        internal = [obj for obj in self.objects if obj.num_rows > sum(part.count for part in obj.shards.values())]
        if not internal and sum(obj.span for obj in self.objects) == sum(part.span for part in self.coverage.values()):
            return []
        kept: dict[str, Coverage] = {}
        dropped: list[OutputObject] = []
        for obj in sorted(self.objects, key=lambda obj: (-obj.span, obj.entry.path)):
            if obj in internal or any(_overlaps(part, kept.get(name, Coverage())) for name, part in obj.shards.items()):
                dropped.append(obj)
                continue
            for name, part in obj.shards.items():
                kept[name] = kept.get(name, Coverage()) | part
        return dropped

    def without(self, dropped: Iterable[OutputObject]) -> "Ledger":
        paths = {obj.entry.path for obj in dropped}
        return Ledger(tuple(obj for obj in self.objects if obj.entry.path not in paths))


def read(storage: Storage, path: str) -> Ledger:
    """Read the ledger of the output at `path`.

    Raises OutputError for an object that is damaged, or that coyo-jobs did not write.
    """
    entries = [(folder, entry) for folder in FOLDERS for entry in storage.list_files(join_path(path, folder))]
    parquet = [(folder, entry) for folder, entry in entries if entry.path.endswith(".parquet")]
    footers = footer.read_footers(storage, (entry for _, entry in parquet), _damaged)
    return Ledger(tuple(_output_object(*item, data) for item, data in zip(parquet, footers, strict=True)))


def _damaged(entry: Entry, cause: Exception) -> OutputError:
    hint = "delete it and run again: only its rows are computed again"
    return OutputError(f"{entry.path}: not a whole Parquet object ({cause})", hint)


def _output_object(folder: str, entry: Entry, parquet: pq.FileMetaData) -> OutputObject:
    provenance = (parquet.metadata or {}).get(schema.PROVENANCE.encode())
    if provenance is None:
        raise OutputError(f"{entry.path}: not written by coyo-jobs", "give the job an output folder of its own")
    shards, metadata = footer.decode_provenance(provenance)
    reasons = json.loads(metadata["reasons"])
    return OutputObject(entry, folder, metadata["run"], metadata["job"], parquet.num_rows, shards, reasons)


def _overlaps(one: Coverage, other: Coverage) -> bool:
    return (one | other).span < one.span + other.span


def _is_covered(obj: OutputObject, coverage: dict[str, Coverage]) -> bool:
    pairs = ((part, coverage.get(name, Coverage())) for name, part in obj.shards.items())
    return all((part | other).span == other.span and part.total in (None, other.total) for part, other in pairs)


def missing(coverage: dict[str, Coverage], shards: Iterable[str]) -> dict[str, str]:
    """The incomplete ones of these shards, each with a message; empty if every row is accounted for."""
    problems: dict[str, str] = {}
    for name in shards:
        committed = coverage.get(name, Coverage())
        if committed.total is None:
            problems[name] = f"{committed.span} rows committed, its end not reached"
        elif not committed.complete:
            problems[name] = f"{committed.span} of {committed.total} rows committed"
    return problems
