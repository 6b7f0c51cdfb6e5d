"""The coordinator of a run: counts rows and rejects, isolates blocks that crash their decoder, and stops the stages.

Stages and the driver use a CoordinatorHandle. It is either the Coordinator in the same process, or
`jobs.driver.remote.RemoteCoordinator`, which calls the Ray actor that holds the Coordinator.
"""

import math
import time
from collections import Counter
from enum import StrEnum
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from jobs import schema
from jobs.driver.run_state import BlockId, Note, OpenShard, RunState, ShardDeltas, Tally
from jobs.errors import Stage
from jobs.row_ranges import Range, coverage_with_ends

_WORST_SHARDS = 3  # kept and shown
_CACHE_SECONDS = 1.0  # of an answer about stopping


class Instruction(StrEnum):
    """The coordinator's answer to a decode task about its block."""

    DECODE = "decode"
    ISOLATE = "isolate"  # decode each image in a subprocess: an earlier attempt at a block of this shard never finished
    STOP = "stop"


class CoordinatorHandle(Protocol):
    """The interface of the coordinator, local or remote. Remote methods that return nothing do not wait for it."""

    def record_work(
        self,
        stage: Stage,
        rows: int,
        seconds: float,
        deltas: ShardDeltas | None = None,
        phases: dict[str, float] | None = None,
        block: BlockId | None = None,
    ) -> None:
        """Add `rows` and busy `seconds` to a stage.

        `deltas` are rows and rejects per shard, `phases` name parts of the seconds, `block` is a finished decode block.
        """

    def finish_shard(self, shard: str, size: int, rows: int, done: tuple[Range, ...] = ()) -> None:
        """Report a shard that was read to its end: `size` in bytes, new `rows`, and the ranges committed before."""

    def actor_ready(self, device: str) -> None:
        """Report that an annotate actor has loaded its models on this device."""

    def micro_batch_chosen(self, sizes: dict[str, int]) -> None:
        """Report the fastest micro-batch size of each model, in images, as measured by an actor."""

    def set_aside(self, shard: str, why: str) -> None:
        """Report a shard that storage refused. The run continues without it."""

    def begin_block(self, block: BlockId) -> Instruction:
        """Report that decoding of a block begins, and return how to decode it."""

    def is_stopping(self) -> bool:
        """Return whether the run was told to stop."""

    def stop(self) -> None:
        """Stop the run in order: readers end early, rows with results are committed, rows without are dropped."""

    def worst_shards(self) -> dict[str, dict[str, int]]:
        """Return rejects by reason of the three shards with the most rejects so far."""

    def snapshot(self, taken: int = 0) -> RunState | None:
        """Return the counts so far, or None if the coordinator does not answer in time.

        `taken` is how many finished shards the caller has received. The coordinator keeps the others for the next call.
        """


class Coordinator:
    """Keeps the counts. Once the driver has taken a finished shard's counts, only the shard's name is kept."""

    def __init__(self) -> None:
        self._now = RunState()
        self._stopping = False
        self._finished: set[str] = set()
        self._shards: dict[str, OpenShard] = {}
        self._worst: dict[str, dict[str, int]] = {}
        self._open: set[BlockId | None] = set()
        self._fatal: set[str] = set()

    def record_work(
        self,
        stage: Stage,
        rows: int,
        seconds: float,
        deltas: ShardDeltas | None = None,
        phases: dict[str, float] | None = None,
        block: BlockId | None = None,
    ) -> None:
        self._open.discard(block)
        now = time.time()
        tally = self._now.stages.setdefault(stage.value, Tally(first=now - seconds))
        tally.rows += rows
        tally.busy += seconds
        tally.last = now
        for phase, spent in (phases or {}).items():
            tally.phases[phase] = tally.phases.get(phase, 0.0) + spent
        for shard, (coverage, reasons) in (deltas or {}).items():
            if shard in self._shards or shard not in self._finished:  # a repeat of a finished shard is ignored
                new, rejected = self._shards.setdefault(shard, OpenShard()).add(stage, coverage, reasons)
                self._now.rows += new
                self._now.reasons.update(rejected)
                self._close_if_complete(shard)

    def finish_shard(self, shard: str, size: int, rows: int, done: tuple[Range, ...] = ()) -> None:
        if shard not in self._finished:  # Ray may repeat a read task
            self._finished.add(shard)
            self._now.finished_shards += 1
            self._now.finished_bytes += size
            self._now.finished_rows += rows
            self._shards.setdefault(shard, OpenShard()).done = done
            self._close_if_complete(shard)

    def _close_if_complete(self, shard: str) -> None:
        if (count := self._shards[shard].final_count(shard)) is not None:
            self._now.shards.append(count)
            self._worst = _with_most_rejects({**self._worst, shard: count.reasons})
            del self._shards[shard]

    def worst_shards(self) -> dict[str, dict[str, int]]:
        return _with_most_rejects(
            {**self._worst, **{name: dict(shard.reasons) for name, shard in self._shards.items()}}
        )

    def actor_ready(self, device: str) -> None:
        self._now.ran_on[device] += 1

    def micro_batch_chosen(self, sizes: dict[str, int]) -> None:
        self._now.micro_batch_sizes |= sizes

    def set_aside(self, shard: str, why: str) -> None:
        self._now.set_aside[shard] = why
        self._now.notes.append(Note("set_aside", shard, f"set aside: {why}"))

    def begin_block(self, block: BlockId) -> Instruction:
        if self._stopping:
            return Instruction.STOP
        if block in self._open and block.shard not in self._fatal:
            self._fatal.add(block.shard)
            why = "a process died while decoding; its images are now decoded one by one"
            self._now.notes.append(Note("note", block.shard, why))
        self._open.add(block)
        return Instruction.ISOLATE if block.shard in self._fatal else Instruction.DECODE

    def snapshot(self, taken: int = 0) -> RunState:
        del self._now.shards[: max(0, taken - self._now.taken)]
        self._now.taken = max(taken, self._now.taken)
        return self._now

    def stop(self) -> None:
        self._stopping = True

    def is_stopping(self) -> bool:
        return self._stopping


def _with_most_rejects(shards: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    ordered = sorted(shards.items(), key=lambda shard: -sum(shard[1].values()))[:_WORST_SHARDS]
    return {name: reasons for name, reasons in ordered if reasons}


class StopSignal:
    """Tells whether the run is stopping. Caches the answer for a second: all stages ask one coordinator."""

    def __init__(self, coordinator: CoordinatorHandle) -> None:
        self._coordinator, self._stopping, self._asked_at = coordinator, False, -math.inf

    def __call__(self) -> bool:
        if time.monotonic() - self._asked_at > _CACHE_SECONDS:
            self._stopping, self._asked_at = self._coordinator.is_stopping(), time.monotonic()
        return self._stopping


def count_rows(table: pa.Table, stage: Stage | None) -> tuple[int, ShardDeltas]:
    """Return input rows, and coverage and rejects per shard. With a stage, count only rejects of that stage."""
    fate = table.select(schema.STATUS_COLUMNS)  # without pixels, which a filter would copy
    ends = fate.column(schema.END)
    rows = fate.filter(pc.invert(ends))
    rejects = rows.filter(pc.is_valid(rows.column(schema.REASON)))
    if stage is not None:
        rejects = rejects.filter(pc.equal(rejects.column(schema.STAGE), stage.value))
    deltas = {name: (part, Counter[str]()) for name, part in coverage_with_ends(rows, fate.filter(ends)).items()}
    for name, reason in zip(*(rejects.column(name).to_pylist() for name in (schema.SHARD, schema.REASON)), strict=True):
        deltas[name][1][reason] += 1
    return rows.num_rows, deltas
