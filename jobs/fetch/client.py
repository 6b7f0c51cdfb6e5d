"""Fetch one url: retries, redirects, and the limits per host. Lives in one event loop."""

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
from jobs.fetch.addresses import AddressPolicy, SystemResolver
from jobs.fetch.failures import RequestFailed
from jobs.fetch.hosts import HostLimiter, WaitBudget
from jobs.fetch.memory import MemoryBudget

_FIRST_DELAY, _MAX_DELAY = 0.5, 8.0  # seconds before a retry
_REDIRECTS = (301, 302, 303, 307, 308)
_DNS_TTL, _DNS_HOSTS = 300, 20_000  # seconds, hosts; each connection checks its address, cached or not
_MAX_HEADER = 16 << 10  # bytes of one header; content security policies are long


class Client:
    """An aiohttp session with the limits of the recipe's fetch section. Create it with `open`, inside the loop."""

    def __init__(self, config: FetchConfig, resolver: AbstractResolver | None = None) -> None:
        self._config = config
        self.memory = MemoryBudget()
        self._hosts = HostLimiter(config.requests_per_host)
        self._slots = asyncio.Semaphore(config.requests)
        self._resolver = resolver or SystemResolver(config.connect_seconds)
        connector = aiohttp.TCPConnector(
            limit=0,  # HostLimiter and _slots are the limits
            resolver=self._resolver,
            socket_factory=AddressPolicy(config.allow_networks).open_socket,
            ttl_dns_cache=_DNS_TTL,
            dns_cache_max_size=_DNS_HOSTS,
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
            trust_env=False,  # a proxy would bypass the address check
            auto_decompress=False,
            max_line_size=_MAX_HEADER,
            max_field_size=_MAX_HEADER,
        )

    @classmethod
    async def open(cls, config: FetchConfig, resolver: AbstractResolver | None) -> Self:
        return cls(config, resolver)

    async def close(self) -> None:
        await self._session.close()
        await self._resolver.close()

    async def get(self, url: str | None) -> bytes | Reject:
        """The body of the url, or a Reject with the reason."""
        try:
            return await self._get_with_retries(urls.parse(url))
        except Reject as exc:
            return Reject(exc.reason, exc.message)  # a copy, since the traceback of `exc` keeps bodies in memory

    async def _get_with_retries(self, url: URL) -> bytes:
        wait_budget = WaitBudget()
        for attempt in range(self._config.retries):
            try:
                return await self._get_with_redirects(url, wait_budget)
            except RequestFailed as exc:
                if not exc.retryable:
                    raise
            await asyncio.sleep(random.uniform(0.5, 1.0) * min(_MAX_DELAY, _FIRST_DELAY * 2**attempt))
        return await self._get_with_redirects(url, wait_budget)

    async def _get_with_redirects(self, url: URL, wait_budget: WaitBudget) -> bytes:
        for _ in range(self._config.max_redirects + 1):
            name = (url.raw_host or "").rstrip(".").lower()
            async with self._hosts.turn(name, wait_budget) as contended, self._slots:
                await self.memory.wait_for_backlog()
                result = await self._request(url, keep_alive=contended)
            if isinstance(result, bytes):
                return result
            url = urls.resolve_redirect(url, result)
        raise Reject(Reason.BAD_ANSWER, f"redirects more than {self._config.max_redirects} times")

    async def _request(self, url: URL, keep_alive: bool) -> bytes | str:
        """Return the body, or the redirect target as str. Keep the connection only if other urls wait for this host."""
        connection = {} if keep_alive else {"Connection": "close"}
        try:
            async with asyncio.timeout(self._config.total_seconds) as deadline:
                async with self._session.get(url, headers=connection, allow_redirects=False) as response:
                    return await self._read(response, deadline)
        except failures.REQUEST_ERRORS as exc:
            raise failures.from_exception(exc) from None

    async def _read(self, response: aiohttp.ClientResponse, deadline: asyncio.Timeout) -> bytes | str:
        moved = response.status in _REDIRECTS and "Location" in response.headers
        if not moved and (response.status == 206 or not 200 <= response.status < 300):
            raise failures.from_response(response)
        if self._config.robots_header == "obey" and (directive := headers.forbidding_directive(response.headers)):
            raise Reject(Reason.ROBOTS, f"X-Robots-Tag: {directive}")
        if moved:
            return response.headers["Location"]
        return await body.read(response, self._config.max_bytes, self.memory, deadline)


class _Request(aiohttp.ClientRequest):
    """Refuses a reused connection on which the server sent data early: it would be taken for the response."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        if conn.protocol is None or conn.protocol.should_close:
            raise aiohttp.ServerDisconnectedError  # the session retries on another connection
        return await super().send(conn)
