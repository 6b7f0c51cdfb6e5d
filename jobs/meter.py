"""Counts what the stages do while a run goes on, for the live line and the rates in the summary.

Only rates and progress come from here. What is committed is proved from the ledger, never from these counts: a
retried task counts twice.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """One stage so far: rows out, seconds its processes were busy, and when it first and last reported."""

    rows: int = 0
    busy: float = 0.0
    first: float = 0.0
    last: float = 0.0


@dataclass
class Snapshot:
    stages: dict[str, Tally] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    finished_shards: int = 0
    finished_bytes: int = 0
    finished_rows: int = 0
    ran_on: Counter[str] = field(default_factory=Counter)


class Meter:
    """Lives in a Ray actor during a run; a plain object in tests."""

    def __init__(self) -> None:
        self._now = Snapshot()

    def count(self, stage: str, rows: int, busy: float, reasons: dict[str, int]) -> None:
        tally = self._now.stages.setdefault(stage, Tally(first=time.time()))
        tally.rows += rows
        tally.busy += busy
        tally.last = time.time()
        self._now.reasons.update(reasons)

    def finish(self, shards: int, size: int, rows: int) -> None:
        """Shards that were read to their end, with their bytes and rows."""
        self._now.finished_shards += shards
        self._now.finished_bytes += size
        self._now.finished_rows += rows

    def note(self, ran_on: str) -> None:
        """An annotate actor is ready; what it runs on."""
        self._now.ran_on[ran_on] += 1

    def snapshot(self) -> Snapshot:
        return self._now


@dataclass(frozen=True)
class Reporter:
    """What a stage holds: `send(method, *args)` reaches the meter, wherever it is, and does not wait."""

    send: Callable[..., Any]

    def timed(self, stage: str, since: float, rows: int, reasons: dict[str, int] | None = None) -> None:
        self.send("count", stage, rows, time.perf_counter() - since, reasons or {})
