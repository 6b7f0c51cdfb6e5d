"""Large bodies wait for memory, and their timeout is suspended meanwhile."""

import asyncio

import pytest

from jobs.fetch import memory
from jobs.fetch.memory import MemoryBudget
from tests.support import clock


async def read(granted: MemoryBudget, size: int, held: list[int], seconds: float = 0.1) -> int:
    """Reserve memory like a large body; return the total reserved meanwhile."""
    async with asyncio.timeout(0.4) as deadline, granted.reserve(size, deadline):
        held.append(size)
        most = sum(held)
        await asyncio.sleep(seconds)
        held.remove(size)
        return most


async def many(*sizes: int) -> list[int]:
    granted, held = MemoryBudget(), list[int]()
    return await asyncio.gather(*(read(granted, size, held) for size in sizes))


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LARGE", 100)
    monkeypatch.setattr(memory, "BACKLOG", 10)


def test_large_bodies_never_take_more_than_their_part() -> None:
    """Their deadline is 0.4 s each, and the last one waits for 0.5 s."""
    assert max(clock.run(many(*[40] * 12))) == 80


def test_a_body_larger_than_all_the_memory_is_read_alone() -> None:
    assert sorted(clock.run(many(40, 500, 40))) == [40, 40, 500]


def test_time_that_a_server_takes_does_count() -> None:
    async def slow() -> None:
        await read(MemoryBudget(), 40, [], seconds=0.8)

    with pytest.raises(TimeoutError):
        clock.run(slow())


def test_no_memory_is_given_while_finished_bodies_lie_about() -> None:
    async def wait() -> None:
        granted = MemoryBudget()
        granted.add_backlog(11)
        waiting = asyncio.create_task(granted.wait_for_backlog())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        granted.remove_backlog(11)
        await waiting

    clock.run(wait())


def test_memory_is_given_back_by_whoever_is_stopped() -> None:
    async def stop() -> None:
        granted = MemoryBudget()
        first = asyncio.create_task(read(granted, 90, [], seconds=9))
        waiting = asyncio.create_task(read(granted, 90, [], seconds=9))
        await asyncio.sleep(0.01)
        for task in (waiting, first):
            task.cancel()
        await asyncio.gather(first, waiting, return_exceptions=True)
        assert await read(granted, 90, []) == 90

    clock.run(stop())
