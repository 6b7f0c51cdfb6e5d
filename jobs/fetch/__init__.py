"""urls -> their bytes, or the reasons why not: hundreds of requests at once, politely, and never to a private address.

    with Fetcher(config) as fetcher:
        for index, result in fetcher.fetch(urls):   # bytes, or a Reject with its reason
            ...

client.py asks for one url; urls.py and addresses.py say what may be asked for, hosts.py when, headers.py in whose name;
body.py reads what comes, in the memory that memory.py grants; failures.py names what went wrong.
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

_AHEAD = 8  # urls that are looked at, for each request at once: those that wait for their host hold up no others
_LINGER = 0.02  # seconds: results are handed over in handfuls, as each change of threads costs a little
_FILES = 512  # open files for everything else

Result = TypeVar("Result")


class Fetcher:
    """One for each process: an event loop in a thread of its own, with one pool of connections and one cache of names.

    `fetch` may be called from several threads at once; they share the limits.
    """

    def __init__(self, config: FetchConfig, resolver: AbstractResolver | None = None) -> None:
        """Raises ConfigError if so many files cannot be open at once."""
        _allow_files(2 * config.requests + _FILES)
        self._ahead = _AHEAD * config.requests
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True)
        self._thread.start()
        self._client = self._do(Client.open(config, resolver))

    def fetch(self, urls: Iterable[str | None]) -> Iterator[tuple[int, bytes | Reject]]:
        """(index, bytes or Reject) of each url, as they come: a slow server holds up nobody's row but its own.

        MemoryBudget is bounded, see memory.py; a caller that is slow slows the requests down. Urls are taken as they are
        needed. Whoever stops early should close the generator: that ends its requests.
        """
        todo, accepted = enumerate(urls), 0
        window = _Window(self._client)
        try:
            while True:
                fresh = list(islice(todo, self._ahead - accepted))
                accepted += len(fresh)
                if not accepted:
                    return
                results = self._do(window.exchange(fresh))
                accepted -= len(results)
                yield from results
        finally:
            if accepted and not self._loop.is_closed():  # not waited for: this may be the garbage collector, anywhere
                asyncio.run_coroutine_threadsafe(window.close(), self._loop)

    def close(self) -> None:
        """Ends every request, closes every connection. No other thread may be in `fetch`."""
        if self._loop.is_closed():
            return
        self._do(_ended(self._client))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _do(self, what: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()


class _Window:
    """The urls of one call that are under way, and the results that nobody took yet. Lives in the loop."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._open: dict[asyncio.Task[bytes | Reject], int] = {}
        self._done: list[asyncio.Task[bytes | Reject]] = []
        self._some = asyncio.Event()

    async def exchange(self, fresh: list[tuple[int, str | None]]) -> list[tuple[int, bytes | Reject]]:
        """Starts these, and gives what is finished, at least one."""
        for index, url in fresh:
            task = asyncio.create_task(self._client.get(url))
            self._open[task] = index
            task.add_done_callback(self._finished)
        await self._some.wait()
        await asyncio.sleep(_LINGER)
        done, self._done = self._done, []
        self._some.clear()
        # result() raises what is no Reject: a mistake of ours, or a ClusterError.
        results = [(self._open.pop(task), task.result()) for task in done]
        self._client.memory.taken(sum(_size(result) for _, result in results))
        return results

    async def close(self) -> None:
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        self._client.memory.taken(sum(map(_finished_size, self._done)))
        self._open, self._done = {}, []

    def _finished(self, task: asyncio.Task[bytes | Reject]) -> None:
        self._client.memory.finished(_finished_size(task))
        self._done.append(task)
        self._some.set()


async def _ended(client: Client) -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await client.close()


def _finished_size(task: asyncio.Task[bytes | Reject]) -> int:
    return 0 if task.cancelled() or task.exception() else _size(task.result())


def _size(result: bytes | Reject) -> int:
    return len(result) if isinstance(result, bytes) else 0


def _allow_files(count: int) -> None:
    """Raises this process's limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise ConfigError(
            f"fetch.requests needs {count:,} open files, and this process may open {hard:,}",
            "lower fetch.requests, or raise the limit (ulimit -Hn)",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
