"""The coordinator of a run: counts what the stages do, isolates blocks that kill their decoder, and orders a stop.

Stages and the driver reach it through a CoordinatorHandle: the Coordinator itself in one process, or
`jobs.driver.remote.RemoteCoordinator`, which calls the Ray actor that holds it.
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

_WORST = 3  # shards
_FRESH = 1.0  # seconds


class Instruction(StrEnum):
    """What a decode task must do with its block."""

    DECODE = "decode"
    ISOLATE = "isolate"  # decode each image in a subprocess: an earlier try at a block of this shard never came back
    STOP = "stop"


class CoordinatorHandle(Protocol):
    """The coordinator, wherever it is. Methods that return nothing do not wait for it."""

    def record_work(
        self,
        stage: Stage,
        rows: int,
        seconds: float,
        deltas: ShardDeltas | None = None,
        phases: dict[str, float] | None = None,
        block: BlockId | None = None,
    ) -> None:
        """Add `rows` and busy `seconds` to a stage. `phases` are parts of the seconds; `block` has ended with it."""

    def finish_shard(self, shard: str, size: int, rows: int, done: tuple[Range, ...] = ()) -> None:
        """A shard was read to its end: its size in bytes, the rows not `done` before, and the ranges done before."""

    def actor_ready(self, device: str) -> None:
        """An annotate actor has loaded its models on this device."""

    def micro_batch_chosen(self, sizes: dict[str, int]) -> None:
        """The fastest micro-batch of each model, in images, as an actor found it."""

    def set_aside(self, shard: str, why: str) -> None:
        """Storage refused a shard; the run goes on without it."""

    def begin_block(self, block: BlockId) -> Instruction:
        """Ask before a block is decoded."""

    def is_stopping(self) -> bool:
        """Whether the run is to end."""

    def stop(self) -> None:
        """Stop in order: readers end where they are; rows with results are committed, rows without are dropped."""

    def worst_shards(self) -> dict[str, dict[str, int]]:
        """The shards with the most rejects so far, and their rejects by reason."""

    def snapshot(self, taken: int = 0) -> RunState | None:
        """The counts so far; None when the coordinator does not answer right now.

        `taken` finished shards were received before: the coordinator drops them now, so a lost answer comes again.
        """


class Coordinator:
    """The counts themselves. Of finished shards only the names are kept, once the driver has taken their counts."""

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
            if shard in self._shards or shard not in self._finished:  # else it is done
                new, rejected = self._shards.setdefault(shard, OpenShard()).add(stage, coverage, reasons)
                self._now.rows += new
                self._now.reasons.update(rejected)
                self._close(shard)

    def finish_shard(self, shard: str, size: int, rows: int, done: tuple[Range, ...] = ()) -> None:
        if shard not in self._finished:  # a task that Ray repeats reads it again
            self._finished.add(shard)
            self._now.finished_shards += 1
            self._now.finished_bytes += size
            self._now.finished_rows += rows
            self._shards.setdefault(shard, OpenShard()).done = done
            self._close(shard)

    def _close(self, shard: str) -> None:
        if (count := self._shards[shard].counted(shard)) is not None:
            self._now.shards.append(count)
            self._worst = _most({**self._worst, shard: count.reasons})
            del self._shards[shard]

    def worst_shards(self) -> dict[str, dict[str, int]]:
        return _most({**self._worst, **{name: dict(shard.reasons) for name, shard in self._shards.items()}})

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


def _most(shards: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Those with the most rejects."""
    ordered = sorted(shards.items(), key=lambda each: -sum(each[1].values()))[:_WORST]
    return {name: reasons for name, reasons in ordered if reasons}


class StopSignal:
    """Whether the run is to end. An answer is used for a second: all stages of a cluster ask one coordinator."""

    def __init__(self, coordinator: CoordinatorHandle) -> None:
        self._coordinator, self._stopping, self._asked_at = coordinator, False, -math.inf

    def __call__(self) -> bool:
        if time.monotonic() - self._asked_at > _FRESH:
            self._stopping, self._asked_at = self._coordinator.is_stopping(), time.monotonic()
        return self._stopping


def count_rows(table: pa.Table, stage: Stage | None) -> tuple[int, ShardDeltas]:
    """(input rows, what there is of each shard); rejects of one stage only, where another has counted the rest."""
    fate = table.select(schema.FATE)  # a filter would copy the pixels
    ends = fate.column(schema.END)
    rows = fate.filter(pc.invert(ends))
    rejects = rows.filter(pc.is_valid(rows.column(schema.REASON)))
    if stage is not None:
        rejects = rejects.filter(pc.equal(rejects.column(schema.STAGE), stage.value))
    shares = {name: (part, Counter[str]()) for name, part in coverage_with_ends(rows, fate.filter(ends)).items()}
    for name, reason in zip(*(rejects.column(name).to_pylist() for name in (schema.SHARD, schema.REASON)), strict=True):
        shares[name][1][reason] += 1
    return rows.num_rows, shares
