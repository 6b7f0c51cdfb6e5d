"""Any sequence of partial runs, duplicates and crashes ends with each row once."""

from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.output.ledger import Ledger, OutputObject, missing
from jobs.row_ranges import Coverage, merge
from jobs.storage import Entry

SHARDS = {"a": 7, "b": 1, "c": 0, "d": 12}
EVERY = frozenset((name, row) for name, rows in SHARDS.items() for row in range(rows))


@dataclass
class Output:
    """An output in memory: objects appear whole, as storage has it, and runs mend before they compute."""

    objects: dict[str, OutputObject] = field(default_factory=dict)
    runs: int = 0

    @property
    def ledger(self) -> Ledger:
        return Ledger(tuple(self.objects.values()))

    def put(self, run: str, rows: set[tuple[str, int]], ends: set[str]) -> None:
        path = f"rows/part-{run}-{len(self.objects):04d}"
        names = {name for name, _ in rows} | ends
        shards = {name: _held(name, rows, name in ends) for name in names}
        self.objects[path] = OutputObject(Entry(path, 1), "rows", run, "job", len(rows), shards, {})

    def drop(self, objects: list[OutputObject]) -> None:
        for obj in objects:
            del self.objects[obj.entry.path]

    def rows(self) -> list[tuple[str, int]]:
        parts = [(name, part) for obj in self.objects.values() for name, part in obj.shards.items()]
        return [(name, row) for name, part in parts for start, stop in part.ranges for row in range(start, stop)]


def _held(name: str, rows: set[tuple[str, int]], end: bool) -> Coverage:
    return Coverage(merge((row, row + 1) for shard, row in rows if shard == name), SHARDS[name] if end else None)


@dataclass(frozen=True)
class Attempt:
    """A run: how many rows an object takes, after how many objects it dies, and which objects arrive late."""

    size: int
    dies_after: int
    late: int
    order: int


attempts = st.builds(Attempt, st.integers(1, 9), st.integers(0, 12), st.integers(0, 3), st.integers(0, 10**6))


def execute(output: Output, attempt: Attempt, orphans: list[tuple[str, set[tuple[str, int]], set[str]]]) -> None:
    """What jobs.run does with the ledger: mend, plan what is missing, write objects, settle."""
    output.drop(output.ledger.overlapping())
    planned = output.ledger
    output.runs += 1
    run = f"run{output.runs:03d}"
    coverage = planned.coverage
    done = {(name, row) for name, part in coverage.items() for start, stop in part.ranges for row in range(start, stop)}
    open_shards = {name for name in SHARDS if not coverage.get(name, Coverage()).complete}
    left = sorted(row for row in EVERY - done if row[0] in open_shards)
    shift = attempt.order % max(1, len(left))
    left = left[shift:] + left[:shift]  # blocks of different shards arrive in any order
    writes = [set(left[i : i + attempt.size]) for i in range(0, len(left), attempt.size)] or [set()]
    for index, rows in enumerate(writes):
        ends = open_shards if index == len(writes) - 1 else set()
        if index >= attempt.dies_after:  # killed; some of what was in flight arrives later
            if len(orphans) < attempt.late:
                orphans.append((run, rows, ends))
            continue
        output.put(run, rows, ends)
        if orphans and attempt.order % 3 == index % 3:
            output.put(*orphans.pop())
    output.drop(output.ledger.late(planned, run))


@settings(max_examples=400, deadline=None)
@given(st.lists(attempts, max_size=8))
def test_any_sequence_of_runs_crashes_and_late_objects_ends_with_each_row_once(history: list[Attempt]) -> None:
    """Orphans of dead runs commit rows that a later run computes too, at any moment, in pieces of another size."""
    output = Output()
    orphans: list[tuple[str, set[tuple[str, int]], set[str]]] = []
    for attempt in history:
        execute(output, attempt, orphans)
    for orphan in orphans:
        output.put(*orphan)
    execute(output, Attempt(5, 10**6, 0, 0), [])
    assert missing(output.ledger.coverage, SHARDS) == {}
    assert sorted(output.rows()) == sorted(EVERY)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8))))
def test_merged_ranges_hold_the_same_rows_and_never_touch(pairs: list[tuple[int, int]]) -> None:
    given_rows = {row for start, count in pairs for row in range(start, start + count)}
    merged = merge((start, start + count) for start, count in pairs if count)
    assert {row for start, stop in merged for row in range(start, stop)} == given_rows
    assert all(one[1] < other[0] for one, other in pairwise(merged))
