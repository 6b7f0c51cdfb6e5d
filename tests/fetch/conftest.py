"""A hostile server for each test, and fetchers that may reach it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver

from jobs.config import FetchConfig
from jobs.errors import Reject
from jobs.fetch import Fetcher
from tests.fetch.hostile import Everywhere, Hostile

MakeFetcher = Callable[..., Fetcher]


@pytest.fixture
def server() -> Iterator[Hostile]:
    with Hostile() as hostile:
        yield hostile


@pytest.fixture
def fetcher() -> Iterator[MakeFetcher]:
    """Makes fetchers with short limits, for which loopback is public and every name is on it."""
    with ExitStack() as made:

        def make(resolver: AbstractResolver | None = None, **keys: Any) -> Fetcher:
            limits = {"read_seconds": 2.0, "total_seconds": 5.0, "connect_seconds": 2.0, "retries": 0}
            config = FetchConfig(**{**limits, "allow_networks": ("127.0.0.0/8",), **keys})
            return made.enter_context(Fetcher(config, resolver or Everywhere()))

        yield make


def fetched(fetcher: Fetcher, *urls: str | None) -> list[bytes | str]:
    """The bytes or the reason of each url, in the order of the urls."""
    found = dict(fetcher.fetch(urls))
    assert sorted(found) == list(range(len(urls)))
    return [result.reason.value if isinstance(result, Reject) else result for _, result in sorted(found.items())]


def only(fetcher: Fetcher, url: str) -> bytes | str:
    return fetched(fetcher, url)[0]
