"""The memory limit of response bodies, for any server and any speed of the caller. It is about

    fetch.requests x (SMALL + buffer of a connection)  +  LARGE  +  BACKLOG  +  BACKLOG held by the caller

A body up to SMALL is read without a reservation. A larger one first reserves its maximum size; while it waits, its
server waits too, and its timeout is suspended. No request starts while uncollected bodies exceed BACKLOG.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SMALL = 256 << 10  # bytes
LARGE = 128 << 20
BACKLOG = 32 << 20


class MemoryBudget:
    """Counts the bytes of large bodies and of the backlog. All sizes are in bytes."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()  # in order of arrival: small bodies must not starve a large one
        self._freed = asyncio.Event()
        self._reserved = 0
        self._below_limit = asyncio.Event()
        self._below_limit.set()
        self._backlog = 0

    async def wait_for_backlog(self) -> None:
        """Wait while the backlog of uncollected bodies exceeds BACKLOG."""
        await self._below_limit.wait()

    def add_backlog(self, size: int) -> None:
        """Count a finished body that the caller has not collected."""
        self._count(size)

    def remove_backlog(self, size: int) -> None:
        """Uncount collected bodies."""
        self._count(-size)

    @asynccontextmanager
    async def reserve(self, size: int, deadline: asyncio.Timeout) -> AsyncIterator[None]:
        """Reserve memory for a large body, even above LARGE if it is the only one. Suspends the deadline meanwhile."""
        async with _suspended(deadline), self._lock:
            while self._reserved and self._reserved + size > LARGE:
                self._freed.clear()
                await self._freed.wait()
            await self.wait_for_backlog()
            self._reserved += size
        try:
            yield
        finally:
            self._reserved -= size
            self._freed.set()

    def _count(self, size: int) -> None:
        self._backlog += size
        if self._backlog < BACKLOG:
            self._below_limit.set()
        else:
            self._below_limit.clear()


@asynccontextmanager
async def _suspended(deadline: asyncio.Timeout) -> AsyncIterator[None]:
    loop, when = asyncio.get_running_loop(), deadline.when()
    assert when is not None
    left = when - loop.time()
    deadline.reschedule(None)
    yield
    deadline.reschedule(loop.time() + left)
