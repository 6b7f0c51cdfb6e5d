"""Counts what the stages do while a run goes on, for the live line and the rates in the summary.

Only rates and progress come from here. What is committed is proved from the ledger, never from these counts: a
retried task counts twice.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jobs.errors import Stage


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


@dataclass
class Snapshot:
    stages: dict[str, Tally] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    finished_shards: int = 0
    finished_bytes: int = 0
    finished_rows: int = 0
    ran_on: Counter[str] = field(default_factory=Counter)
    set_aside: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def decoded(self) -> int:
        """Rows whose pixels are there, or that are known to be rejects."""
        return self.stages[Stage.DECODE.value].rows if Stage.DECODE.value in self.stages else 0

    @property
    def rejected(self) -> int:
        return sum(self.reasons.values())


class Meter:
    """Lives in a Ray actor during a run; a plain object in tests."""

    def __init__(self) -> None:
        self._now = Snapshot()
        self._stopping = False
        self._finished: set[str] = set()
        self._open: set[Any] = set()
        self._fatal: set[str] = set()

    def count(self, stage: str, rows: int, busy: float, reasons: dict[str, int], phases: dict[str, float]) -> None:
        now = time.time()
        tally = self._now.stages.setdefault(stage, Tally(first=now - busy))
        tally.rows += rows
        tally.busy += busy
        tally.last = now
        for phase, seconds in phases.items():
            tally.phases[phase] = tally.phases.get(phase, 0.0) + seconds
        self._now.reasons.update(reasons)

    def finish(self, shard: str, size: int, rows: int) -> None:
        """A shard was read to its end: its bytes, and the rows of it that were not done before."""
        if shard not in self._finished:  # a task that Ray repeats reads it again
            self._finished.add(shard)
            self._now.finished_shards += 1
            self._now.finished_bytes += size
            self._now.finished_rows += rows

    def ready(self, ran_on: str) -> None:
        """An annotate actor is ready; what it runs on."""
        self._now.ran_on[ran_on] += 1

    def paced(self, parts: dict[str, int]) -> None:
        """Images that an actor gives each of its models at once."""
        self._now.parts |= parts

    def set_aside(self, shard: str, why: str) -> None:
        """A shard that storage would not give; the run goes on without it."""
        self._now.set_aside[shard] = why
        self._now.notes.append(f"{shard}: set aside: {why}")

    def begin(self, block: tuple[str, int, int]) -> str:
        """A block (shard, first row, rows) is about to be decoded. What to do: "stop", "carefully" because an earlier
        try at one of this shard's never came back, or "go"."""
        shard = block[0]
        if self._stopping:
            return "stop"
        if block in self._open and shard not in self._fatal:
            self._fatal.add(shard)
            self._now.notes.append(f"{shard}: a process died while decoding; its images are now decoded one by one")
        self._open.add(block)
        return "carefully" if shard in self._fatal else "go"

    def end(self, block: Any) -> None:
        self._open.discard(block)

    def snapshot(self) -> Snapshot:
        return self._now

    def stop(self) -> None:
        """No new rows: readers end where they are, rows without results are dropped, those with them are committed."""
        self._stopping = True

    def stopping(self) -> bool:
        return self._stopping


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
        reasons: dict[str, int] | None = None,
        phases: dict[str, float] | None = None,
    ) -> None:
        self.send("count", stage, rows, time.perf_counter() - since, reasons or {}, phases or {})
