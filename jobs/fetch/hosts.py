"""Limits per host: concurrent requests, pauses that the host asks for, and no requests while it does not respond."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from jobs.errors import Reason, Reject
from jobs.fetch.failures import RequestFailed

WAIT_SECONDS = 60.0  # seconds that one url waits in total for hosts that ask for a pause
MAX_UNANSWERED = 8  # consecutive requests without a response; then none are sent for DOWN_SECONDS
DOWN_SECONDS = 60.0
_MAX_HOSTS = 20_000  # that are remembered
_MAX_PAUSE = 32.0  # seconds, for 429 without Retry-After


@dataclass
class WaitBudget:
    """Seconds that one url may still wait for hosts that ask for a pause."""

    left: float = WAIT_SECONDS


@dataclass
class HostState:
    """`users` counts the urls that wait for the host or request from it."""

    turns: asyncio.Semaphore
    users: int = 0
    unanswered: int = 0
    throttled: int = 0
    paused_until: float = 0.0
    down_until: float = 0.0
    last_failure: Reject | None = None  # why it is paused or down

    @property
    def free_at(self) -> float:
        """Loop time from which requests are allowed."""
        return max(self.paused_until, self.down_until)


class HostLimiter:
    """Grants turns: at most `requests_per_host` concurrent requests to each host."""

    def __init__(self, requests_per_host: int) -> None:
        self._requests_per_host = requests_per_host
        self._hosts: dict[str, HostState] = {}

    @asynccontextmanager
    async def turn(self, name: str, wait_budget: WaitBudget) -> AsyncIterator[bool]:
        """Wait until a request to this host is allowed; yield whether other urls wait for it too.

        Raises Reject if the pause exceeds the budget or the host is down. Records what is raised inside the block.
        """
        host = self._host(name)
        host.users += 1
        try:
            await _wait(name, host, wait_budget)
            try:
                yield host.users > 1
            except RequestFailed as exc:
                _record_failure(host, exc)
                raise
            except Reject:
                host.unanswered = host.throttled = 0
                raise
            else:
                host.unanswered = host.throttled = 0
            finally:
                host.turns.release()
        finally:
            host.users -= 1

    def _host(self, name: str) -> HostState:
        if name not in self._hosts:
            if len(self._hosts) >= _MAX_HOSTS:
                now = _now()
                self._hosts = {key: host for key, host in self._hosts.items() if host.users or host.free_at > now}
            self._hosts[name] = HostState(asyncio.Semaphore(self._requests_per_host))
        return self._hosts[name]


async def _wait(name: str, host: HostState, wait_budget: WaitBudget) -> None:
    """Wait for the end of the pause, then for a turn."""
    while True:
        while host.last_failure and (seconds := host.free_at - _now()) > 0:
            if host.down_until > _now():
                raise Reject(
                    host.last_failure.reason,
                    f"the last {MAX_UNANSWERED} requests to {name} failed: {host.last_failure.message}",
                )
            if seconds > wait_budget.left:
                raise Reject(
                    host.last_failure.reason, f"{name} asks for a pause of {seconds:.0f} s: {host.last_failure.message}"
                )
            wait_budget.left -= seconds
            await asyncio.sleep(seconds)
        await host.turns.acquire()
        if host.free_at <= _now():  # no new pause began while this url waited for its turn
            return
        host.turns.release()


def _record_failure(host: HostState, exc: RequestFailed) -> None:
    host.unanswered = host.unanswered + 1 if exc.unanswered else 0
    if host.unanswered >= MAX_UNANSWERED:
        host.down_until, host.last_failure = _now() + DOWN_SECONDS, exc
    host.throttled = host.throttled + 1 if exc.reason is Reason.THROTTLED else 0
    pause = exc.retry_after or (min(_MAX_PAUSE, 2.0 ** (host.throttled - 1)) if host.throttled else 0.0)
    if pause:
        host.paused_until, host.last_failure = max(host.paused_until, _now() + pause), exc


def _now() -> float:
    return asyncio.get_running_loop().time()
