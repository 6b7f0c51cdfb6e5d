"""Counts of a running job: what the coordinator keeps, and what the driver shows of it.

Only rates and progress come from here. What is committed is proved from the ledger, never from these counts. A stage's
tally is its work, so a task that Ray repeats counts twice there; rows and rejects count once.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from jobs.errors import Stage
from jobs.row_ranges import Coverage, Range

ShardDeltas = dict[str, tuple[Coverage, Counter[str]]]  # by shard: the rows of one block or batch, rejects by reason


class BlockId(NamedTuple):
    """What identifies a block, however often Ray tries it."""

    shard: str
    first_row: int
    rows: int


@dataclass
class Tally:
    """One stage so far: rows out, seconds its processes were busy, and when it first began and last reported.

    `phases` are parts of the busy seconds, where a stage tells them apart.
    """

    rows: int = 0
    busy: float = 0.0
    first: float = 0.0
    last: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """What somebody should know of a shard; `event` is what kind of thing it is."""

    event: str
    shard: str
    message: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.message}"


@dataclass(frozen=True)
class ShardCount:
    """A shard of which this run has given every row its results or a reason; `rows` are all of them, in `seconds`."""

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
    """`rows` have their results or a reason, `reasons` tell the latter; `shards` are those that are done and not taken
    yet, `taken` were, before them."""

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
        """Rows whose pixels are there, or that are known to be rejects."""
        return self.stages[Stage.DECODE.value].rows if Stage.DECODE.value in self.stages else 0

    @property
    def rejected(self) -> int:
        return sum(self.reasons.values())


class OpenShard:
    """A shard that is not done: what each stage has given of it, and the rejects among that. `done` are the rows that
    were committed before, known when it is read to its end."""

    def __init__(self) -> None:
        self.since = time.time()
        self.rows = 0
        self.reasons: Counter[str] = Counter()
        self.covered: dict[Stage, Coverage] = {}
        self.done: tuple[Range, ...] | None = None

    def add(self, stage: Stage, share: Coverage, reasons: Counter[str]) -> tuple[int, Counter[str]]:
        """(rows that are annotated now, rejects) that are new: what Ray repeats is there already, and counts once."""
        before = self.covered.get(stage, Coverage())
        self.covered[stage] = before | share
        new = self.covered[stage].span - before.span
        reasons = reasons if new == share.span else Counter()
        rows = max(0, new - share.unselected) if stage is Stage.ANNOTATE else 0
        self.rows += rows
        self.reasons.update(reasons)
        return rows, reasons

    def counted(self, shard: str) -> ShardCount | None:
        """Once every row went through both stages."""
        every = [self.covered.get(stage, Coverage()) for stage in (Stage.DECODE, Stage.ANNOTATE)]
        if self.done is None or not all((have | Coverage(self.done)).complete for have in every):
            return None
        reasons = dict(self.reasons.most_common())
        return ShardCount(shard, self.rows, reasons, every[-1].damage, round(time.time() - self.since, 3))
