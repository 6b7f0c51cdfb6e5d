"""Counts of a running job, kept by the coordinator and shown by the driver.

They only serve rates and progress: what is committed is read from the ledger. A stage's tally counts work, so a task
that Ray repeats counts twice. Rows and rejects count once.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from jobs.errors import Stage
from jobs.row_ranges import Coverage, Range

ShardDeltas = dict[str, tuple[Coverage, Counter[str]]]  # of one block, by shard: coverage, and rejects by reason


class BlockId(NamedTuple):
    """Identifies a block across Ray's retries."""

    shard: str
    first_row: int
    rows: int


@dataclass
class Tally:
    """Work of one stage: rows out, busy seconds of its processes, time of its first start and of its last report.

    Times are in seconds since 1970. `phases` split the busy seconds of the annotate stage.
    """

    rows: int = 0
    busy: float = 0.0
    first: float = 0.0
    last: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """A message about a shard, for the log. `event` is the name of its log event."""

    event: str
    shard: str
    message: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.message}"


@dataclass(frozen=True)
class ShardCount:
    """Counts of a shard that this run has completed: its rows, the rejects among them, and the seconds it took."""

    shard: str
    rows: int
    reasons: dict[str, int]
    damage: str | None
    seconds: float

    @property
    def rejects(self) -> int:
        return sum(self.reasons.values())

    def __str__(self) -> str:
        why = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.items())
        return f"{self.shard}: {self.rows:,} rows, {self.rejects:,} rejects{f' ({why})' if why else ''}" + (
            f"; damaged: {self.damage}" if self.damage else ""
        )


@dataclass
class RunState:
    """All counts of a run.

    `rows` have a result or a reject; `reasons` count the rejects. The `finished_` fields count shards that were read to
    the end. `shards` are completed shards that the driver has not taken yet; `taken` is how many it took before.
    """

    stages: dict[str, Tally] = field(default_factory=dict)
    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    finished_shards: int = 0
    finished_bytes: int = 0
    finished_rows: int = 0
    ran_on: Counter[str] = field(default_factory=Counter)
    set_aside: dict[str, str] = field(default_factory=dict)
    micro_batch_sizes: dict[str, int] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    shards: list[ShardCount] = field(default_factory=list)
    taken: int = 0

    @property
    def decoded(self) -> int:
        """Rows that the decode stage has passed on, rejects included."""
        return self.stages[Stage.DECODE.value].rows if Stage.DECODE.value in self.stages else 0

    @property
    def rejected(self) -> int:
        return sum(self.reasons.values())


class OpenShard:
    """Progress of one unfinished shard: coverage per stage, and rejects by reason.

    `done` are the ranges that earlier runs committed; None until the shard was read to its end.
    """

    def __init__(self) -> None:
        self.since = time.time()
        self.rows = 0
        self.reasons: Counter[str] = Counter()
        self.covered: dict[Stage, Coverage] = {}
        self.done: tuple[Range, ...] | None = None

    def add(self, stage: Stage, delta: Coverage, reasons: Counter[str]) -> tuple[int, Counter[str]]:
        """Add a block's rows. Return the newly annotated rows and the new rejects: blocks that Ray repeats add none."""
        before = self.covered.get(stage, Coverage())
        self.covered[stage] = before | delta
        new = self.covered[stage].span - before.span
        reasons = reasons if new == delta.span else Counter()
        rows = max(0, new - delta.unselected) if stage is Stage.ANNOTATE else 0
        self.rows += rows
        self.reasons.update(reasons)
        return rows, reasons

    def final_count(self, shard: str) -> ShardCount | None:
        """Return the counts once every row has passed decode and annotate, else None."""
        coverages = [self.covered.get(stage, Coverage()) for stage in (Stage.DECODE, Stage.ANNOTATE)]
        if self.done is None or not all((have | Coverage(self.done)).complete for have in coverages):
            return None
        reasons = dict(self.reasons.most_common())
        return ShardCount(shard, self.rows, reasons, coverages[-1].damage, round(time.time() - self.since, 3))
