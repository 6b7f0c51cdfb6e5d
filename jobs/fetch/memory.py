"""How much memory bodies may take, whatever servers send and however slowly rows are taken; about

    fetch.requests x (SMALL + what a connection buffers)  +  LARGE  +  BACKLOG  +  BACKLOG in the caller's hands

Bodies up to SMALL are simply read. A larger one first reserves all that it may become; while it waits, its server waits
too, and its clock stands still. While finished bodies that nobody took are more than BACKLOG, no request is made.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SMALL = 256 << 10  # bytes
LARGE = 128 << 20
BACKLOG = 32 << 20


class MemoryBudget:
    def __init__(self) -> None:
        self._line = asyncio.Lock()  # first come, first served: small ones do not overtake for ever
        self._freed = asyncio.Event()
        self._reserved = 0
        self._room = asyncio.Event()
        self._room.set()
        self._backlog = 0

    async def room(self) -> None:
        """Waits while too many finished bodies lie about."""
        await self._room.wait()

    def finished(self, size: int) -> None:
        self._count(size)

    def taken(self, size: int) -> None:
        self._count(-size)

    @asynccontextmanager
    async def reserved(self, size: int, deadline: asyncio.Timeout) -> AsyncIterator[None]:
        """For one large body, even if it is larger than LARGE. The deadline stands still while it waits."""
        async with _stopped(deadline), self._line:
            while self._reserved and self._reserved + size > LARGE:
                self._freed.clear()
                await self._freed.wait()
            await self.room()
            self._reserved += size
        try:
            yield
        finally:
            self._reserved -= size
            self._freed.set()

    def _count(self, size: int) -> None:
        self._backlog += size
        if self._backlog < BACKLOG:
            self._room.set()
        else:
            self._room.clear()


@asynccontextmanager
async def _stopped(deadline: asyncio.Timeout) -> AsyncIterator[None]:
    loop, until = asyncio.get_running_loop(), deadline.when()
    assert until is not None
    left = until - loop.time()
    deadline.reschedule(None)
    yield
    deadline.reschedule(loop.time() + left)
