"""A lease lets one run at a time write a part of an output: `_lease.json` names the run and when the lease expires.

A lease lasts 60 seconds; a live run renews it. A killed run leaves its lease behind. A run on the same machine sees
that the process is gone; a run elsewhere must wait until the lease expires.
"""

import json
import os
import random
import socket
import time
from dataclasses import asdict, dataclass

from jobs.driver.tasks import Partition
from jobs.errors import OutputError
from jobs.output.layout import LEASE
from jobs.storage import Storage
from jobs.storage.paths import join_path

LEASE_SECONDS = 60.0


@dataclass(frozen=True)
class Holder:
    """The run that holds a lease. `until` is the expiry, in seconds since 1970."""

    run: str
    host: str
    pid: int
    until: float

    @property
    def alive(self) -> bool:
        if self.until < time.time():
            return False
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # the process exists and belongs to another user
            return True
        return True


_NOBODY = Holder("unknown", "unknown", 0, 0.0)  # holder of an unreadable lease, which counts as expired


class Lease:
    """The lease of one run. Runs of different parts I/N with the same N do not conflict; any other two runs do."""

    def __init__(self, storage: Storage, output: str, run: str, part: Partition | None = None) -> None:
        self._storage, self._output, self._run, self._part = storage, output, run, part or Partition()
        self._path = join_path(output, f"{LEASE}{self._part.suffix}.json")

    def acquire(self) -> None:
        """Take the lease. Raises OutputError, naming the holder, if a live run may write the same shards."""
        for path in self._others():
            other = self._holder(path)
            if other is not None and other.alive:
                raise self._refusal(other, path)
        holder = self._holder()
        if holder is not None and holder.run != self._run:
            if holder.alive:
                raise self._refusal(holder)
            self._storage.delete(self._path)
        if not self._storage.put_if_absent(self._path, self._mine()):
            first = self._holder()
            if first is None or first.run != self._run:  # else the request succeeded and only its answer was lost
                raise self._refusal(first)
        if holder is not None:  # another run may have replaced the same dead lease: the last writer wins
            time.sleep(random.uniform(0.2, 0.5))
            self.renew()

    def renew(self) -> None:
        """Extend the lease. Raises OutputError if another run has taken it."""
        holder = self._holder()
        if holder is None or holder.run != self._run:
            raise self._refusal(holder)
        self._storage.put(self._path, self._mine())

    def release(self) -> None:
        """Delete the lease if this run still holds it."""
        holder = self._holder()
        if holder is not None and holder.run == self._run:
            self._storage.delete(self._path)

    def _mine(self) -> bytes:
        return json.dumps(
            asdict(Holder(self._run, socket.gethostname(), os.getpid(), time.time() + LEASE_SECONDS))
        ).encode()

    def _others(self) -> list[str]:
        """Paths of leases that conflict with this one: of the whole output, and of parts with another N."""
        names = [entry.path for entry in self._storage.list_files(self._output)]
        leases = [name for name in names if name.rpartition("/")[2].startswith(LEASE)]
        if self._part.count == 1:
            return [name for name in leases if not name.endswith(f"{LEASE}.json")]
        return [name for name in leases if not name.endswith(f"of{self._part.count}.json")]

    def _holder(self, path: str = "") -> Holder | None:
        path = path or self._path
        if not self._storage.exists(path):
            return None
        try:
            fields = json.loads(self._storage.read(path))
            return Holder(str(fields["run"]), str(fields["host"]), int(fields["pid"]), float(fields["until"]))
        except (ValueError, TypeError, KeyError):
            return _NOBODY

    def _refusal(self, holder: Holder | None, path: str = "") -> OutputError:
        if holder is None:
            return OutputError(
                f"{self._path}: this run's lease is gone", "was the output deleted? run the same command again"
            )
        left = max(0, round(holder.until - time.time()))
        return OutputError(
            f"{path or self._path}: run {holder.run} on {holder.host} (process {holder.pid}) is writing here",
            f"stop it or wait for it; if it is dead, its lease expires in {left} s",
        )
