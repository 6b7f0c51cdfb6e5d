"""Watches a run from its driver: shows and publishes progress, keeps the lease, minds the limits, stops it in order.

Stopping is asked of the stages: readers end where they are, rows that have results are committed, and the same
command goes on from there. A run that does not end within GRACE seconds is interrupted.
"""

import _thread
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import asdict, dataclass, field, replace
from math import inf
from types import FrameType

from jobs import log, schema
from jobs.config import JobConfig
from jobs.driver.coordinator import CoordinatorHandle
from jobs.driver.lease import SECONDS, Lease
from jobs.driver.progress import Display, Progress, before, progress, publish
from jobs.driver.prometheus import Metrics
from jobs.driver.remote import NodeWatcher
from jobs.driver.run_state import RunState
from jobs.driver.tasks import Work
from jobs.errors import ClusterError, Interrupted, JobError, OutputError, StorageError
from jobs.storage import Storage

GRACE = 60.0  # seconds for what is in flight
_TICK, _PUBLISH_EVERY, _TELL_EVERY = 0.5, 5.0, 30.0  # seconds


class Stall:
    """Since when nothing has moved."""

    def __init__(self) -> None:
        self._moved, self._since = -1, time.monotonic()

    def seconds(self, seen: RunState) -> float:
        moved = sum(tally.rows for tally in seen.stages.values()) + seen.finished_shards + sum(seen.ran_on.values())
        if moved != self._moved:
            self._moved, self._since = moved, time.monotonic()
        return time.monotonic() - self._since


@dataclass
class Supervisor:
    """One run's. `part` is the suffix of its files; `coordinator` counts, and tells readers to end;
    `metrics` show its counts to Prometheus; `nodes` says which nodes come and go."""

    run: str
    part: str
    work: Work
    config: JobConfig
    storage: Storage
    lease: Lease
    coordinator: CoordinatorHandle
    metrics: Metrics
    nodes: NodeWatcher
    seen: RunState = field(default_factory=RunState)
    stopped: JobError | None = None
    _began: float = field(default_factory=time.monotonic)
    _stopped_at: float | None = None
    _over: threading.Event = field(default_factory=threading.Event)
    _told: tuple[int, int] = (0, 0)  # notes and shards
    _stall: Stall = field(default_factory=Stall)
    _waiting: str = ""

    @contextmanager
    def watching(self) -> Iterator["Supervisor"]:
        thread = threading.Thread(target=copy_context().run, args=(self._loop,), daemon=True)
        with self._signals():
            thread.start()
            try:
                yield self
            finally:
                self._over.set()
                thread.join()
                self._look()

    def stop(self, why: JobError) -> None:
        """Ask once; why is what the run ends with."""
        if self.stopped is None:
            self.stopped, self._stopped_at = why, time.monotonic()
            self.coordinator.stop()

    def now(self, state: str) -> Progress:
        seconds = time.monotonic() - self._began
        now = progress(run=self.run, state=state, seen=self.seen, work=self.work, seconds=seconds)
        return replace(now, waiting=self._waiting)

    @property
    def _state(self) -> str:
        return "stopping" if self.stopped else "running"

    def _loop(self) -> None:
        published = renewed = time.monotonic()
        with Display() as display:
            while not self._over.wait(_TICK):
                self._look()
                display.show(self.now(self._state))
                self._mind_rejects()
                if time.monotonic() - published >= _PUBLISH_EVERY:
                    published = time.monotonic()
                    self._mind_stall()
                    renewed = self._keep(renewed)
                if self._stopped_at is not None and time.monotonic() - self._stopped_at > GRACE:
                    self._over.set()
                    _thread.interrupt_main()

    def _look(self) -> None:
        """The counts so far, to Prometheus and the log."""
        notes, shards = self._told
        self.seen = seen = self.coordinator.snapshot(shards) or self.seen
        self._told = len(seen.notes), seen.taken + len(seen.shards)
        self.metrics.show(seen)
        for note in seen.notes[notes:]:
            log.say(note.event, str(note), line=f"note      {note}", level=logging.WARNING, shard=note.shard)
        for count in seen.shards[shards - seen.taken :]:
            level = logging.WARNING if count.damage else logging.DEBUG  # a line for each of 70,000 shards is noise
            log.say(schema.SHARD, str(count), level=level, **asdict(count), rejects=count.rejects)

    def settle(self, rows: int, reasons: dict[str, int]) -> None:
        """What is committed."""
        self.seen.rows = rows
        self.seen.reasons = Counter(reasons)

    def publish(self, state: str) -> None:
        """For readers elsewhere; a store that is away must not hide what the run ends with."""
        with suppress(StorageError):
            self._publish(state)

    def _publish(self, state: str) -> None:
        publish(self.storage, self.config.output.path, self.part, self.now(state))

    def _keep(self, renewed: float) -> float:
        """A store that is away for a moment costs nothing; a lease not renewed in its time ends the run."""
        try:
            self._publish(self._state)
            self.lease.renew()
            return time.monotonic()
        except OutputError as exc:
            self.stop(exc)
        except StorageError as exc:
            if time.monotonic() - renewed > SECONDS:
                self.stop(exc)
        return renewed

    def _mind_rejects(self) -> None:
        limits = self.config.limits
        rows, rejects = self.seen.decoded, self.seen.rejected
        if rows < limits.after_rows or rejects <= limits.max_reject_fraction * rows:
            return
        most = ", ".join(f"{count:,} {reason}" for reason, count in self.seen.reasons.most_common(3))
        why = JobError(
            f"{rejects:,} of the first {rows:,} rows are rejects ({most}): more than limits.max_reject_fraction",
            "is this the right input? limits.max_reject_fraction: 1.0 goes on regardless",
        )
        why.about["worst_shards"] = self.coordinator.worst_shards()
        self.stop(why)

    def _mind_stall(self) -> None:
        """Ray's own timeout would end a run that waits for a spot node; this one knows what it waits for."""
        quiet, (self._waiting, changes) = self._stall.seconds(self.seen), self.nodes.poll()
        for change in changes:
            log.say("note", change)
        if self._waiting:
            limit, name, why = self.config.compute.wait_seconds, "compute.wait_seconds", f" for {self._waiting}"
        else:
            limit, name, why = self.config.limits.stalled_seconds, "limits.stalled_seconds", ""
        if quiet > limit:
            hint = "the same command goes on where it was; coyo-jobs doctor looks at the machines"
            self.stop(ClusterError(f"no row was read, decoded or annotated for {quiet:,.0f} s ({name}){why}", hint))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM stop in order; a second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, _frame: FrameType | None) -> None:
            if self.stopped is not None:
                raise KeyboardInterrupt
            name = signal.Signals(number).name
            self.stop(Interrupted(f"stopped by {name}; rows with results are committed", "the same command goes on"))

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class QueuedRun:
    """A run that cannot begin yet: says what it waits for, there and in the output, and keeps its lease."""

    run: str
    part: str
    storage: Storage
    output: str
    lease: Lease
    _told: float = -inf
    _published: float = -inf

    @contextmanager
    def until_it_ends(self) -> Iterator[None]:
        """A run that gives up, or is stopped meanwhile, is seen to be stopped."""
        try:
            yield
        except (JobError, KeyboardInterrupt):
            with suppress(StorageError):
                publish(self.storage, self.output, self.part, replace(before(self.run, "", 0.0), state="stopped"))
            raise

    def tell(self, why: str, seconds: float) -> None:
        """Raises OutputError when another run has taken the lease."""
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY:
            self._told = now
            log.say("waiting", f"{why}; {seconds:,.0f} s (compute.wait_seconds)", seconds=seconds)
        if now - self._published >= _PUBLISH_EVERY:
            self._published = now
            with suppress(StorageError):  # for a moment; a lease that is lost is found out at the next try
                publish(self.storage, self.output, self.part, before(self.run, why, seconds))
                self.lease.renew()
