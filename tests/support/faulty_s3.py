"""An S3 server that fails on cue: an HTTP proxy in front of the real one, with rules by method, path and count.

    with FaultyS3(s3) as proxy:
        proxy.on("GET", r"part-00001", error(503, "SlowDown"), first=2, times=3)

A job reaches it through storage.endpoint_url. It counts what was asked, so that tests can prove what was not.
"""

import http.client
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")


@dataclass
class Exchange:
    """One request, and the ways to deal with it."""

    handler: BaseHTTPRequestHandler
    server: str
    body: bytes

    def forward(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """What the real server says. The Host stays the client's: it is part of what was signed."""
        upstream = http.client.HTTPConnection(urlsplit(self.server).netloc, timeout=500)
        try:
            upstream.putrequest(self.handler.command, self.handler.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.handler.headers.items():
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "expect"):
                    upstream.putheader(name, value)
            if "Authorization" not in self.handler.headers:  # moto only looks whether it is there
                upstream.putheader("Authorization", "AWS anonymous:allowed")
            upstream.putheader("Content-Length", str(len(self.body)))
            upstream.endheaders(self.body)
            answer = upstream.getresponse()
            headers = [(n, v) for n, v in answer.getheaders() if n.lower() not in ("connection", "transfer-encoding")]
            return answer.status, headers, answer.read()
        finally:
            upstream.close()

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.handler.send_response(status)
        for name, value in headers:
            self.handler.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.handler.send_header("Content-Length", str(len(body)))
        self.handler.end_headers()
        if self.handler.command != "HEAD":
            self.handler.wfile.write(body)

    def hang_up(self) -> None:
        self.handler.close_connection = True
        with suppress(OSError):
            self.handler.connection.shutdown(socket.SHUT_RDWR)


Fault = Callable[[Exchange], None]


def error(status: int, code: str) -> Fault:
    """S3's own error, such as 503 SlowDown, 403 AccessDenied or 400 ExpiredToken."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>on cue</Message></Error>".encode()
    return lambda exchange: exchange.answer(status, [("Content-Type", "application/xml")], body)


def reset(exchange: Exchange) -> None:
    """The connection is lost before any answer; nothing was done."""
    exchange.hang_up()


def lose_answer(exchange: Exchange) -> None:
    """The request is carried out, and nobody hears of it."""
    exchange.forward()
    exchange.hang_up()


def cut(count: int) -> Fault:
    """The connection is lost after `count` bytes of the body."""

    def fault(exchange: Exchange) -> None:
        status, headers, body = exchange.forward()
        exchange.answer(status, [*_without_length(headers), ("Content-Length", str(len(body)))], body[:count])
        exchange.handler.wfile.flush()
        exchange.hang_up()

    return fault


def short(count: int) -> Fault:
    """`count` bytes come, and the headers say that this is all."""

    def fault(exchange: Exchange) -> None:
        status, headers, body = exchange.forward()
        exchange.answer(status, _without_length(headers), body[:count])

    return fault


def first(action: Callable[[], Any]) -> Fault:
    """Something else happens just before the request is carried out."""

    def fault(exchange: Exchange) -> None:
        action()
        exchange.answer(*exchange.forward())

    return fault


def delay(seconds: float) -> Fault:
    return first(lambda: time.sleep(seconds))


@dataclass
class Rule:
    """`fault` for the matching requests from the `first`-th on, `times` of them; None: for ever."""

    method: str
    path: re.Pattern[str]
    fault: Fault
    first: int
    times: int | None
    seen: int = 0

    def takes(self, method: str, key: str) -> bool:
        if method != self.method or not self.path.search(key):
            return False
        self.seen += 1
        return self.seen >= self.first and (self.times is None or self.seen < self.first + self.times)


@dataclass
class FaultyS3:
    """Runs in threads of the test's process; `endpoint` is where jobs find it."""

    server: str
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    sent: int = 0  # bytes of answers
    _rules: list[Rule] = field(default_factory=list)
    _refusal: tuple[Fault, re.Pattern[str]] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> "FaultyS3":
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def on(self, method: str, path: str, fault: Fault, *, first: int = 1, times: int | None = 1) -> Rule:
        """The newest rule that takes a request decides. Paths are bucket/key."""
        rule = Rule(method, re.compile(path), fault, first, times)
        self._rules.insert(0, rule)
        return rule

    def dark(self, fault: Fault | None = None, spared: str = "^$") -> None:
        """From now on everything is refused, at once and for good, but the spared paths."""
        self._refusal = (fault or error(403, "AccessDenied"), re.compile(spared))

    def light(self) -> None:
        """No rule holds any more."""
        self._refusal = None
        self._rules.clear()

    def asked(self, method: str, path: str) -> int:
        """How many requests of this kind there were."""
        return sum(count for (how, key), count in self.requests.items() if how == method and re.search(path, key))

    def forget(self) -> None:
        self.requests.clear()

    def deal(self, exchange: Exchange) -> None:
        method, key = exchange.handler.command, unquote(urlsplit(exchange.handler.path).path).lstrip("/")
        with self._lock:
            self.requests[method, key] += 1
            refused = self._refused(key)
            # Every rule counts what it sees, also behind a newer one.
            taken = [rule.fault for rule in self._rules if rule.takes(method, key)] if refused is None else [refused]
        if taken:
            taken[0](exchange)
        else:
            status, headers, body = exchange.forward()
            with self._lock:
                self.sent += len(body)
            exchange.answer(status, headers, body)

    def _refused(self, key: str) -> Fault | None:
        if self._refusal is None or self._refusal[1].search(key):
            return None
        return self._refusal[0]


def _without_length(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() != "content-length"]


def _handler(proxy: FaultyS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _any(self) -> None:
            with suppress(ConnectionError):  # clients hang up too
                proxy.deal(Exchange(self, proxy.server, _body(self)))

    for method in METHODS:
        setattr(Handler, f"do_{method}", Handler._any)
    return Handler


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    parts = []
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        parts.append(handler.rfile.read(size))
        handler.rfile.readline()
    while handler.rfile.readline().strip():  # trailers
        pass
    return b"".join(parts)


DENIED = error(403, "AccessDenied")  # nobody tries that again: the run ends at once, like a process that is gone
