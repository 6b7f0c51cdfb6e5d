"""Each host's turns: how many requests it gets at once, how long it asked for rest, and whether it answers at all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from jobs.errors import Reason, Reject
from jobs.fetch.failures import Failed

PATIENCE = 60.0  # seconds that one url waits, in all, for a host that asks for rest
GIVE_UP = 8  # requests in a row without an answer: the host is not asked for DOWN seconds
DOWN = 60.0
_REMEMBERED = 20_000  # hosts
_LONGEST_REST = 32.0  # seconds, for hosts that say 429 and not how long


@dataclass
class WaitBudget:
    """Of one url: seconds that it will still wait for hosts that ask for rest."""

    left: float = PATIENCE


@dataclass
class Host:
    turns: asyncio.Semaphore
    users: int = 0
    unanswered: int = 0
    throttled: int = 0
    rests_until: float = 0.0
    down_until: float = 0.0
    why: Reject | None = None  # it rests, or is down

    @property
    def free_at(self) -> float:
        return max(self.rests_until, self.down_until)


class Hosts:
    def __init__(self, requests_per_host: int) -> None:
        self._most = requests_per_host
        self._hosts: dict[str, Host] = {}

    @asynccontextmanager
    async def turn(self, name: str, patience: WaitBudget) -> AsyncIterator[bool]:
        """Waits until this host may be asked; gives whether others wait for it too.

        Raises Reject where that would take too long, or is in vain. What is raised inside is remembered of the host.
        """
        host = self._host(name)
        host.users += 1
        try:
            await _wait(name, host, patience)
            try:
                yield host.users > 1
            except Failed as exc:
                _remember(host, exc)
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

    def _host(self, name: str) -> Host:
        if name not in self._hosts:
            if len(self._hosts) >= _REMEMBERED:
                now = _now()
                self._hosts = {key: host for key, host in self._hosts.items() if host.users or host.free_at > now}
            self._hosts[name] = Host(asyncio.Semaphore(self._most))
        return self._hosts[name]


async def _wait(name: str, host: Host, patience: WaitBudget) -> None:
    """Until the host is at rest no more, and then for a turn."""
    while True:
        while host.why and (seconds := host.free_at - _now()) > 0:
            if host.down_until > _now():
                raise Reject(host.why.reason, f"the last {GIVE_UP} requests to {name} failed: {host.why.message}")
            if seconds > patience.left:
                raise Reject(host.why.reason, f"{name} asks for {seconds:.0f} s of rest: {host.why.message}")
            patience.left -= seconds
            await asyncio.sleep(seconds)
        await host.turns.acquire()
        if host.free_at <= _now():  # nothing was said while this url waited for its turn
            return
        host.turns.release()


def _remember(host: Host, exc: Failed) -> None:
    host.unanswered = host.unanswered + 1 if exc.silent else 0
    if host.unanswered >= GIVE_UP:
        host.down_until, host.why = _now() + DOWN, exc
    host.throttled = host.throttled + 1 if exc.reason is Reason.THROTTLED else 0
    rest = exc.rest or (min(_LONGEST_REST, 2.0 ** (host.throttled - 1)) if host.throttled else 0.0)
    if rest:
        host.rests_until, host.why = max(host.rests_until, _now() + rest), exc


def _now() -> float:
    return asyncio.get_running_loop().time()
