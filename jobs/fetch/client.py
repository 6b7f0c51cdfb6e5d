"""One url -> its bytes, or the reason why not: tries, redirects, turns, limits. Lives in one event loop."""

import asyncio
import random
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.connector import Connection
from yarl import URL

from jobs.config import FetchConfig
from jobs.errors import Reason, Reject
from jobs.fetch import body, failures, headers, urls
from jobs.fetch.addresses import Addresses, Names
from jobs.fetch.failures import Failed
from jobs.fetch.hosts import Hosts, WaitBudget
from jobs.fetch.memory import Memory

_FIRST, _LONGEST = 0.5, 8.0  # seconds before another try
_REDIRECTS = (301, 302, 303, 307, 308)
_NAMES_FOR, _NAMES_KEPT = 300, 20_000  # seconds, hosts: a new address is judged like the old one
_HEADER = 16 << 10  # bytes of one header; content security policies are long


class Client:
    def __init__(self, config: FetchConfig, resolver: AbstractResolver | None = None) -> None:
        self._config = config
        self.memory = Memory()
        self._hosts = Hosts(config.requests_per_host)
        self._slots = asyncio.Semaphore(config.requests)
        self._resolver = resolver or Names(config.connect_seconds)
        connector = aiohttp.TCPConnector(
            limit=0,  # turns and slots are the limits
            resolver=self._resolver,
            socket_factory=Addresses(config.allow_networks).open_socket,
            ttl_dns_cache=_NAMES_FOR,
            dns_cache_max_size=_NAMES_KEPT,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            request_class=_Request,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "User-Agent": headers.user_agent(config.contact),
                "Accept": "image/*, */*;q=0.1",
                "Accept-Encoding": "identity",
            },
            timeout=aiohttp.ClientTimeout(sock_connect=config.connect_seconds, sock_read=config.read_seconds),
            trust_env=False,  # a proxy would connect where no address is judged
            auto_decompress=False,
            max_line_size=_HEADER,
            max_field_size=_HEADER,
        )

    @classmethod
    async def open(cls, config: FetchConfig, resolver: AbstractResolver | None) -> Self:
        return cls(config, resolver)

    async def close(self) -> None:
        await self._session.close()
        await self._resolver.close()

    async def get(self, url: str | None) -> bytes | Reject:
        try:
            return await self._tried(urls.parse(url))
        except Reject as exc:
            return Reject(exc.reason, exc.message)  # a new one: the other holds on to bodies through its traceback

    async def _tried(self, url: URL) -> bytes:
        patience = WaitBudget()
        for attempt in range(self._config.retries):
            try:
                return await self._followed(url, patience)
            except Failed as exc:
                if not exc.again:
                    raise
            await asyncio.sleep(random.uniform(0.5, 1.0) * min(_LONGEST, _FIRST * 2**attempt))
        return await self._followed(url, patience)

    async def _followed(self, url: URL, patience: WaitBudget) -> bytes:
        for _ in range(self._config.max_redirects + 1):
            name = (url.raw_host or "").rstrip(".").lower()
            async with self._hosts.turn(name, patience) as shared, self._slots:
                await self.memory.room()
                answer = await self._asked(url, keep=shared)
            if isinstance(answer, bytes):
                return answer
            url = urls.follow(url, answer)
        raise Reject(Reason.BAD_ANSWER, f"redirects more than {self._config.max_redirects} times")

    async def _asked(self, url: URL, keep: bool) -> bytes | str:
        """A body, or where to go instead. A connection is kept where another url waits for the same host."""
        about = {} if keep else {"Connection": "close"}
        try:
            async with asyncio.timeout(self._config.total_seconds) as deadline:
                async with self._session.get(url, headers=about, allow_redirects=False) as answer:
                    return await self._judged(answer, deadline)
        except failures.RAISED as exc:
            raise failures.raised(exc) from None

    async def _judged(self, answer: aiohttp.ClientResponse, deadline: asyncio.Timeout) -> bytes | str:
        moved = answer.status in _REDIRECTS and "Location" in answer.headers
        if not moved and (answer.status == 206 or not 200 <= answer.status < 300):
            raise failures.answered(answer)
        if self._config.robots_header == "obey" and (directive := headers.forbidden(answer.headers)):
            raise Reject(Reason.ROBOTS, f"X-Robots-Tag: {directive}")
        if moved:
            return answer.headers["Location"]
        return await body.read(answer, self._config.max_bytes, self.memory, deadline)


class _Request(aiohttp.ClientRequest):
    """Does not take for its answer what a server said before it was asked, on a connection that was kept."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        if conn.protocol is None or conn.protocol.should_close:
            raise aiohttp.ServerDisconnectedError  # the session tries again with another connection
        return await super().send(conn)
