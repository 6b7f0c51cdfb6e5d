"""A web server on loopback that does to its clients what the web does, and worse. It counts what it sees.

The first word of a path names what happens; a host name of its own for each request comes from `Everywhere`.
"""

import asyncio
import gzip
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Self

from aiohttp.abc import AbstractResolver, ResolveResult

IMAGE = b"\xff\xd8" + b"x" * 998  # nothing here decodes it
BOMB = gzip.compress(bytes(64 << 20))  # 64 MiB in 64 KB


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    at: float = field(default_factory=time.monotonic)

    @property
    def words(self) -> list[str]:
        return self.path.strip("/").split("/")


Behaviour = Callable[["Hostile", Request, asyncio.StreamWriter], Awaitable[None]]


class Hostile:
    """Listens on every loopback address, 127.0.0.1 to 127.255.255.254, until closed."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.connections = self.lost = self.now = self.most = 0
        self.asked_at: set[str] = set()  # the addresses that clients connected to
        self.seen: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._start(tls), self._loop).result()
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def _start(self, tls: ssl.SSLContext | None) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "0.0.0.0", 0, ssl=tls, limit=1 << 20, backlog=1024)

    def url(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/{path}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join()

    def _stop(self) -> None:
        self._server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.call_soon(self._loop.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.asked_at.add(writer.get_extra_info("sockname")[0])
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").strip().split("\r\n")
                request = Request(first.split(" ")[1], dict(line.lower().split(": ", 1) for line in lines))
                self.requests.append(request)
                self.seen[request.path] += 1
                self.now += 1
                self.most = max(self.most, self.now)
                try:
                    await BEHAVIOURS[request.words[0]](self, request, writer)
                    await writer.drain()
                finally:
                    self.now -= 1
                if request.headers.get("connection") == "close":
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.lost += 1
        finally:
            writer.close()


async def image(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    answer(writer, IMAGE)


async def named(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    """Its path, so that a test can tell whether each url got its own bytes."""
    answer(writer, request.path.encode())


async def big(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    answer(writer, bytes(int(request.words[1])))


async def status(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    answer(writer, b"<html>", status=request.words[1])


async def flaky(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    """/flaky/503/2/name: twice this status, then the image."""
    fails = server.seen[request.path] <= int(request.words[2])
    answer(writer, b"" if fails else IMAGE, status=request.words[1] if fails else "200")


async def rest(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    """/rest/429/1/name: the first time this status, and the wish for so many seconds of rest (date: as a date)."""
    seconds = request.words[2]
    wish = formatdate(time.time() + 2, usegmt=True) if seconds == "date" else seconds
    first = server.seen[request.path] == 1
    answer(
        writer,
        b"" if first else IMAGE,
        *([f"Retry-After: {wish}"] if first else []),
        status=request.words[1] if first else "200",
    )


async def robots(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    answer(writer, IMAGE, "X-Robots-Tag: noai")


async def redirect(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    """/redirect/10000: that many, to others of its kind. /redirect/loop: to itself."""
    count = request.words[1]
    to = request.path if count == "loop" else f"/redirect/{int(count) - 1}" if int(count) else "/image"
    answer(writer, b"moved", f"Location: {to}", "Set-Cookie: id=1", status="302")


async def to(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    """/to/URL, where %3A and %2F stand for : and /."""
    target = request.path.removeprefix("/to/").replace("%3A", ":").replace("%2F", "/").replace("%40", "@")
    answer(writer, b"moved", f"Location: {target}", status="301")


async def hold(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    """/hold/0.05/name: answers after this many seconds."""
    await asyncio.sleep(float(request.words[1]))
    answer(writer, IMAGE)


async def crowd(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    """/crowd/25/name: answers once there have been this many requests at the same time, and a moment later."""
    while server.most < int(request.words[1]):
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    answer(writer, IMAGE)


async def silence(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    """Never answers."""
    await asyncio.Event().wait()


async def drip(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    """A byte at a time, for ever: no single wait is long."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def endless(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    """No length is announced, and none there is."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(bytes(64 << 10))
        await writer.drain()


async def endless_header(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while True:
        writer.write(b"x" * 4096)
        await writer.drain()


async def many_headers(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    answer(writer, IMAGE, *(f"X-{index}: {'x' * 100}" for index in range(5000)))


async def bomb(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    answer(writer, BOMB, "Content-Encoding: gzip")


async def encoded(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    """/encoded/gzip, /encoded/br, /encoded/cut: an encoding that nobody asked for."""
    how, body = request.words[1], gzip.compress(IMAGE)
    answer(writer, body[:-9] if how == "cut" else body, f"Content-Encoding: {'gzip' if how == 'cut' else how}")


async def short(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    """Ends before the length that was announced."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + IMAGE[:500])
    await writer.drain()
    writer.close()


async def overlong(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    """Goes on after the length that was announced, with what could be the answer to the next request."""
    answer(writer, IMAGE)
    await writer.drain()
    await asyncio.sleep(0.01)
    answer(writer, b"somebody else's")


async def reset(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    """Hangs up in the middle of the body, rudely."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + IMAGE[:500])
    await writer.drain()
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


async def lies(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    """Announces a terabyte."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n")


async def garbage(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


async def bad_chunks(server: Hostile, request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\nx\r\n")


def answer(writer: asyncio.StreamWriter, body: bytes, *headers: str, status: str = "200") -> None:
    lines = [f"HTTP/1.1 {status} Word", f"Content-Length: {len(body)}", *headers, "", ""]
    writer.write("\r\n".join(lines).encode() + body)


BEHAVIOURS: dict[str, Behaviour] = {
    each.__name__: each
    for each in (
        image, named, big, status, flaky, rest, robots, redirect, to, hold, crowd, silence, drip, endless,
        endless_header, many_headers, bomb, encoded, short, overlong, reset, lies, garbage, bad_chunks,
    )
}  # fmt: skip


class Everywhere(AbstractResolver):
    """Every name is at these addresses; or, for each lookup of a name, at the next of several lists."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = answers or (["127.0.0.1"],)
        self.lookups: Counter[str] = Counter()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        addresses = self._answers[min(self.lookups[host], len(self._answers) - 1)]
        self.lookups[host] += 1
        return [
            ResolveResult(hostname=host, host=each, port=port, family=family, proto=0, flags=0) for each in addresses
        ]

    async def close(self) -> None:
        pass
