"""Supervise a run from the driver: show and publish progress, renew the lease, enforce limits, stop the run in order.

To stop in order, the stages end by themselves: readers end early, and rows with results are committed. A run that has
not ended GRACE_SECONDS later is interrupted. In both cases the same command continues.
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
from jobs.driver.lease import LEASE_SECONDS, Lease
from jobs.driver.progress import Display, Progress, measure, publish, waiting_progress
from jobs.driver.prometheus import Metrics
from jobs.driver.remote import NodeWatcher
from jobs.driver.run_state import RunState
from jobs.driver.tasks import Work
from jobs.errors import ClusterError, Interrupted, JobError, OutputError, StorageError
from jobs.storage import Storage

GRACE_SECONDS = 60.0  # to commit what is in flight
_TICK, _PUBLISH_EVERY, _LOG_EVERY = 0.5, 5.0, 30.0  # seconds


class StallTimer:
    """Measures how long a run has made no progress."""

    def __init__(self) -> None:
        self._moved, self._since = -1, time.monotonic()

    def seconds(self, seen: RunState) -> float:
        """Return the seconds since rows, shards or ready actors last changed."""
        moved = sum(tally.rows for tally in seen.stages.values()) + seen.finished_shards + sum(seen.ran_on.values())
        if moved != self._moved:
            self._moved, self._since = moved, time.monotonic()
        return time.monotonic() - self._since


@dataclass
class Supervisor:
    """Supervises one run.

    `part` is the suffix of the part's files. `seen` are the latest counts of the coordinator. `stopped` is why the
    run stops early, if it does.
    """

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
    _logged: tuple[int, int] = (0, 0)  # notes and shards
    _stall: StallTimer = field(default_factory=StallTimer)
    _waiting: str = ""

    @contextmanager
    def watching(self) -> Iterator["Supervisor"]:
        """Supervise in a thread for the duration of the context, and handle SIGINT and SIGTERM."""
        thread = threading.Thread(target=copy_context().run, args=(self._loop,), daemon=True)
        with self._signals():
            thread.start()
            try:
                yield self
            finally:
                self._over.set()
                thread.join()
                self._refresh()

    def stop(self, why: JobError) -> None:
        """Stop the run in order. The first reason counts: the run raises it."""
        if self.stopped is None:
            self.stopped, self._stopped_at = why, time.monotonic()
            self.coordinator.stop()

    def now(self, state: str) -> Progress:
        """Return the progress of the run, in the given state."""
        seconds = time.monotonic() - self._began
        now = measure(run=self.run, state=state, seen=self.seen, work=self.work, seconds=seconds)
        return replace(now, waiting=self._waiting)

    @property
    def _state(self) -> str:
        return "stopping" if self.stopped else "running"

    def _loop(self) -> None:
        published = renewed = time.monotonic()
        with Display() as display:
            while not self._over.wait(_TICK):
                self._refresh()
                display.show(self.now(self._state))
                self._check_rejects()
                if time.monotonic() - published >= _PUBLISH_EVERY:
                    published = time.monotonic()
                    self._check_stall()
                    renewed = self._publish_and_renew(renewed)
                if self._stopped_at is not None and time.monotonic() - self._stopped_at > GRACE_SECONDS:
                    self._over.set()
                    _thread.interrupt_main()

    def _refresh(self) -> None:
        """Fetch the counts, update the metrics, and log new notes and finished shards."""
        notes, shards = self._logged
        self.seen = seen = self.coordinator.snapshot(shards) or self.seen
        self._logged = len(seen.notes), seen.taken + len(seen.shards)
        self.metrics.update(seen)
        for note in seen.notes[notes:]:
            log.say(note.event, str(note), line=f"note      {note}", level=logging.WARNING, shard=note.shard)
        for count in seen.shards[shards - seen.taken :]:
            level = logging.WARNING if count.damage else logging.DEBUG  # 70,000 lines, one per shard, would be noise
            log.say(schema.SHARD, str(count), level=level, **asdict(count), rejects=count.rejects)

    def set_committed(self, rows: int, reasons: dict[str, int]) -> None:
        """Replace the counts by those of the committed rows."""
        self.seen.rows = rows
        self.seen.reasons = Counter(reasons)

    def publish(self, state: str) -> None:
        """Write the progress to the output. Ignore storage errors: they must not hide the result of the run."""
        with suppress(StorageError):
            self._publish(state)

    def _publish(self, state: str) -> None:
        publish(self.storage, self.config.output.path, self.part, self.now(state))

    def _publish_and_renew(self, renewed: float) -> float:
        """Publish and renew the lease. Return when it was last renewed.

        Ignore storage errors until the lease has expired; then stop the run.
        """
        try:
            self._publish(self._state)
            self.lease.renew()
            return time.monotonic()
        except OutputError as exc:
            self.stop(exc)
        except StorageError as exc:
            if time.monotonic() - renewed > LEASE_SECONDS:
                self.stop(exc)
        return renewed

    def _check_rejects(self) -> None:
        limits = self.config.limits
        rows, rejects = self.seen.decoded, self.seen.rejected
        if rows < limits.after_rows or rejects <= limits.max_reject_fraction * rows:
            return
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.seen.reasons.most_common(3))
        error = JobError(
            f"{rejects:,} of the first {rows:,} rows are rejects ({reasons}): more than limits.max_reject_fraction",
            "is this the right input? limits.max_reject_fraction: 1.0 accepts any",
        )
        error.log_fields["worst_shards"] = self.coordinator.worst_shards()
        self.stop(error)

    def _check_stall(self) -> None:
        """Stop a run that makes no progress; one that waits for GPUs may wait longer. Ray has no such distinction."""
        idle, (self._waiting, changes) = self._stall.seconds(self.seen), self.nodes.poll()
        for change in changes:
            log.say("note", change)
        if self._waiting:
            limit, name, why = self.config.compute.wait_seconds, "compute.wait_seconds", f" for {self._waiting}"
        else:
            limit, name, why = self.config.limits.stalled_seconds, "limits.stalled_seconds", ""
        if idle > limit:
            hint = "run the same command to continue; coyo-jobs doctor checks the machines"
            self.stop(ClusterError(f"no row was read, decoded or annotated for {idle:,.0f} s ({name}){why}", hint))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop in order on SIGINT or SIGTERM, and at once on a second signal. Only the main thread receives signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, _frame: FrameType | None) -> None:
            if self.stopped is not None:
                raise KeyboardInterrupt
            name = signal.Signals(number).name
            self.stop(
                Interrupted(f"stopped by {name}; rows with results are committed", "run the same command to continue")
            )

        previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@dataclass
class QueuedRun:
    """A run that waits for resources: logs and publishes what it waits for, and renews its lease."""

    run: str
    part: str
    storage: Storage
    output: str
    lease: Lease
    _logged_at: float = -inf
    _published_at: float = -inf

    @contextmanager
    def publish_if_stopped(self) -> Iterator[None]:
        """Publish the state "stopped" if the wait fails or is interrupted."""
        try:
            yield
        except (JobError, KeyboardInterrupt):
            with suppress(StorageError):
                publish(
                    self.storage, self.output, self.part, replace(waiting_progress(self.run, "", 0.0), state="stopped")
                )
            raise

    def report(self, why: str, seconds: float) -> None:
        """Log and publish what the run waits for. Raises OutputError if another run has taken the lease."""
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY:
            self._logged_at = now
            log.say("waiting", f"{why}; {seconds:,.0f} s (compute.wait_seconds)", seconds=seconds)
        if now - self._published_at >= _PUBLISH_EVERY:
            self._published_at = now
            with suppress(StorageError):  # a brief outage; the next attempt detects a lost lease
                publish(self.storage, self.output, self.part, waiting_progress(self.run, why, seconds))
                self.lease.renew()
