"""Counts what the stages do while a run goes on, for the live line and the rates in the summary.

Only rates and progress come from here. What is committed is proved from the ledger, never from these counts. A stage's
tally is its work, in which a task that Ray repeats counts twice; rows and rejects count once.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jobs.errors import Stage
from jobs.row_ranges import Coverage, Range

Shares = dict[str, tuple[Coverage, Counter[str]]]  # what a block or batch holds of each shard: rows, rejects by reason
Block = tuple[str, int, int]  # shard, first row, rows: what tells a block apart, however often it is tried
_WORST = 3
_FRESH = 1.0  # seconds


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


class Laps:
    """A stopwatch for the phases of one call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, phase: str) -> None:
        """What has passed since the last lap was this phase."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now


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
class Snapshot:
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
    parts: dict[str, int] = field(default_factory=dict)
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


class _Open:
    """A shard that is not done: what each stage has given of it, and the rejects among that. `done` are the rows that
    were committed before, known when it is read to its end."""

    def __init__(self) -> None:
        self.since = time.time()
        self.rows = 0
        self.reasons: Counter[str] = Counter()
        self.covered: dict[str, Coverage] = {}
        self.done: tuple[Range, ...] | None = None

    def add(self, stage: str, share: Coverage, reasons: Counter[str]) -> tuple[int, Counter[str]]:
        """(rows that are annotated now, rejects) that are new: what Ray repeats is there already, and counts once."""
        before = self.covered.get(stage, Coverage())
        self.covered[stage] = before | share
        new = self.covered[stage].span - before.span
        reasons = reasons if new == share.span else Counter()
        rows = max(0, new - share.unselected) if stage == Stage.ANNOTATE.value else 0
        self.rows += rows
        self.reasons.update(reasons)
        return rows, reasons

    def counted(self, shard: str) -> ShardCount | None:
        """Once every row went through both stages."""
        every = [self.covered.get(stage.value, Coverage()) for stage in (Stage.DECODE, Stage.ANNOTATE)]
        if self.done is None or not all((have | Coverage(self.done)).complete for have in every):
            return None
        reasons = dict(self.reasons.most_common())
        return ShardCount(shard, self.rows, reasons, every[-1].damage, round(time.time() - self.since, 3))


class Meter:
    """Lives in a Ray actor during a run; a plain object in tests. Of shards that are done it keeps the names only, once
    their counts were taken."""

    def __init__(self) -> None:
        self._now = Snapshot()
        self._stopping = False
        self._finished: set[str] = set()
        self._shards: dict[str, _Open] = {}
        self._worst: dict[str, dict[str, int]] = {}
        self._open: set[Block | None] = set()
        self._fatal: set[str] = set()

    def count(
        self, stage: str, rows: int, busy: float, shares: Shares, phases: dict[str, float], block: Block | None = None
    ) -> None:
        """What a stage has done; `block` is one that began and has ended with it."""
        self._open.discard(block)
        now = time.time()
        tally = self._now.stages.setdefault(stage, Tally(first=now - busy))
        tally.rows += rows
        tally.busy += busy
        tally.last = now
        for phase, seconds in phases.items():
            tally.phases[phase] = tally.phases.get(phase, 0.0) + seconds
        for shard, (share, reasons) in shares.items():
            if shard in self._shards or shard not in self._finished:  # else it is done
                new, rejected = self._shards.setdefault(shard, _Open()).add(stage, share, reasons)
                self._now.rows += new
                self._now.reasons.update(rejected)
                self._close(shard)

    def finish(self, shard: str, size: int, rows: int, done: tuple[Range, ...] = ()) -> None:
        """A shard was read to its end: its bytes, the rows of it that were not done before, and those that were."""
        if shard not in self._finished:  # a task that Ray repeats reads it again
            self._finished.add(shard)
            self._now.finished_shards += 1
            self._now.finished_bytes += size
            self._now.finished_rows += rows
            self._shards.setdefault(shard, _Open()).done = done
            self._close(shard)

    def _close(self, shard: str) -> None:
        if (count := self._shards[shard].counted(shard)) is not None:
            self._now.shards.append(count)
            self._worst = _most({**self._worst, shard: count.reasons})
            del self._shards[shard]

    def worst(self) -> dict[str, dict[str, int]]:
        """The shards with the most rejects so far, and theirs by reason."""
        return _most({**self._worst, **{name: dict(shard.reasons) for name, shard in self._shards.items()}})

    def ready(self, ran_on: str) -> None:
        """An annotate actor is ready; what it runs on."""
        self._now.ran_on[ran_on] += 1

    def paced(self, parts: dict[str, int]) -> None:
        """Images that an actor gives each of its models at once."""
        self._now.parts |= parts

    def set_aside(self, shard: str, why: str) -> None:
        """A shard that storage would not give; the run goes on without it."""
        self._now.set_aside[shard] = why
        self._now.notes.append(Note("set_aside", shard, f"set aside: {why}"))

    def begin(self, block: Block) -> str:
        """A block is about to be decoded. What to do: "stop", "carefully" because an earlier try at one of this shard's
        never came back, or "go"."""
        shard = block[0]
        if self._stopping:
            return "stop"
        if block in self._open and shard not in self._fatal:
            self._fatal.add(shard)
            why = "a process died while decoding; its images are now decoded one by one"
            self._now.notes.append(Note("note", shard, why))
        self._open.add(block)
        return "carefully" if shard in self._fatal else "go"

    def snapshot(self, taken: int = 0) -> Snapshot:
        """The counts so far. Of the shards that are done, those that whoever asks has taken before are let go now: an
        answer that was lost is given again."""
        del self._now.shards[: max(0, taken - self._now.taken)]
        self._now.taken = max(taken, self._now.taken)
        return self._now

    def stop(self) -> None:
        """No new rows: readers end where they are, rows without results are dropped, those with them are committed."""
        self._stopping = True

    def stopping(self) -> bool:
        return self._stopping


def _most(shards: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Those with the most rejects."""
    ordered = sorted(shards.items(), key=lambda each: -sum(each[1].values()))[:_WORST]
    return {name: reasons for name, reasons in ordered if reasons}


@dataclass(frozen=True)
class Reporter:
    """What a stage holds: `send(method, *args)` reaches the meter, wherever it is, and does not wait; `ask` does."""

    send: Callable[..., Any]
    ask: Callable[..., Any] = lambda *_: False

    def timed(
        self,
        stage: str,
        since: float,
        rows: int,
        shares: Shares | None = None,
        phases: dict[str, float] | None = None,
        block: Block | None = None,
    ) -> None:
        self.send("count", stage, rows, time.perf_counter() - since, shares or {}, phases or {}, block)


class Stopping:
    """Whether the run is to end. An answer is good for a second: all the stages of a cluster ask one meter."""

    def __init__(self, report: Reporter) -> None:
        self._report, self._said, self._since = report, False, -math.inf

    def __call__(self) -> bool:
        if time.monotonic() - self._since > _FRESH:
            self._said, self._since = self._report.ask("stopping"), time.monotonic()
        return self._said
