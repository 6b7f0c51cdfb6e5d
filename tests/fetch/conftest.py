"""A hostile server for each test, and fetchers that may reach it."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver

from jobs.config import FetchConfig
from jobs.fetch import Fetcher
from tests.support.fetchers import MakeFetcher
from tests.support.hostile import Everywhere, Hostile


@pytest.fixture
def server() -> Iterator[Hostile]:
    with Hostile() as hostile:
        yield hostile


@pytest.fixture
def fetcher() -> Iterator[MakeFetcher]:
    """Makes fetchers for which loopback is public and every name is on it. No time limit is ever reached, unless the
    test sets one: a busy machine must not look like a slow server."""
    with ExitStack() as made:

        def make(resolver: AbstractResolver | None = None, **keys: Any) -> Fetcher:
            limits = {"read_seconds": 600.0, "total_seconds": 600.0, "connect_seconds": 600.0, "retries": 0}
            config = FetchConfig(**{**limits, "allow_networks": ("127.0.0.0/8",), **keys})
            return made.enter_context(Fetcher(config, resolver or Everywhere()))

        yield make
