"""Download urls: hundreds of concurrent requests, with limits per host, and never to a private address.

    with Fetcher(config) as fetcher:
        for index, result in fetcher.fetch(urls):   # bytes, or a Reject with the reason
            ...

client.py fetches one url. urls.py and addresses.py decide whether a url is allowed, hosts.py when it is requested.
headers.py writes and reads headers, body.py reads the body within the limits of memory.py, and failures.py turns
errors and responses into reject reasons.
"""

import asyncio
import resource
import threading
from collections.abc import Coroutine, Iterable, Iterator
from itertools import islice
from typing import Any, Self, TypeVar

from aiohttp.abc import AbstractResolver

from jobs.config import FetchConfig
from jobs.errors import ConfigError, Reject
from jobs.fetch.client import Client
from jobs.fetch.headers import user_agent

__all__ = ["Fetcher", "user_agent"]

_AHEAD = 8  # open urls per concurrent request, so that urls waiting for their host do not block others
_LINGER = 0.02  # seconds to collect results before handing them over, since each thread switch has a cost
_OTHER_FILES = 512  # open files besides connections

Result = TypeVar("Result")


class Fetcher:
    """Downloads urls in an event loop in its own thread, with one connection pool and one DNS cache.

    Use one per process. Several threads may call `fetch` at once; they share the limits.
    """

    def __init__(self, config: FetchConfig, resolver: AbstractResolver | None = None) -> None:
        """Raises ConfigError if the process may not open enough files."""
        _raise_open_file_limit(2 * config.requests + _OTHER_FILES)
        self._ahead = _AHEAD * config.requests
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True)
        self._thread.start()
        self._client = self._run(Client.open(config, resolver))

    def fetch(self, urls: Iterable[str | None]) -> Iterator[tuple[int, bytes | Reject]]:
        """Yield (index, bytes or Reject) for each url in order of completion: a slow server delays only its own urls.

        Memory is bounded (see memory.py), so a slow caller slows the requests down. `urls` is consumed as needed. A
        caller that stops early should close the generator, which cancels its requests.
        """
        numbered, accepted = enumerate(urls), 0
        in_flight = _InFlight(self._client)
        try:
            while True:
                fresh = list(islice(numbered, self._ahead - accepted))
                accepted += len(fresh)
                if not accepted:
                    return
                results = self._run(in_flight.exchange(fresh))
                accepted -= len(results)
                yield from results
        finally:
            if accepted and not self._loop.is_closed():  # do not wait: the garbage collector may run this in any thread
                asyncio.run_coroutine_threadsafe(in_flight.close(), self._loop)

    def close(self) -> None:
        """Cancel all requests and close all connections. No other thread may be in `fetch`."""
        if self._loop.is_closed():
            return
        self._run(_shut_down(self._client))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class _InFlight:
    """The running requests of one `fetch` call, and its uncollected results. Lives in the event loop."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tasks: dict[asyncio.Task[bytes | Reject], int] = {}
        self._done: list[asyncio.Task[bytes | Reject]] = []
        self._any_done = asyncio.Event()

    async def exchange(self, fresh: list[tuple[int, str | None]]) -> list[tuple[int, bytes | Reject]]:
        """Start these urls; return the finished results, at least one."""
        for index, url in fresh:
            task = asyncio.create_task(self._client.get(url))
            self._tasks[task] = index
            task.add_done_callback(self._on_done)
        await self._any_done.wait()
        await asyncio.sleep(_LINGER)
        done, self._done = self._done, []
        self._any_done.clear()
        # result() raises everything but a Reject: a bug, or a ClusterError.
        results = [(self._tasks.pop(task), task.result()) for task in done]
        self._client.memory.remove_backlog(sum(_size(result) for _, result in results))
        return results

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._client.memory.remove_backlog(sum(map(_task_size, self._done)))
        self._tasks, self._done = {}, []

    def _on_done(self, task: asyncio.Task[bytes | Reject]) -> None:
        self._client.memory.add_backlog(_task_size(task))
        self._done.append(task)
        self._any_done.set()


async def _shut_down(client: Client) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()


def _task_size(task: asyncio.Task[bytes | Reject]) -> int:
    return 0 if task.cancelled() or task.exception() else _size(task.result())


def _size(result: bytes | Reject) -> int:
    return len(result) if isinstance(result, bytes) else 0


def _raise_open_file_limit(count: int) -> None:
    """Raise the soft limit of this process to `count` open files. Raises ConfigError if the hard limit is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise ConfigError(
            f"fetch.requests needs {count:,} open files, but this process may open only {hard:,}",
            "lower fetch.requests, or raise the limit (ulimit -Hn)",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
