"""What a head may answer, or not: a server that is none, another version, a log that breaks off, an end of any kind."""

import asyncio
import http.server
import json
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from cluster import submit
from cluster.answers import HeadError, HeadUnreachable
from cluster.submit import Head, Submission, connect


@pytest.fixture
def server() -> Iterator[type[http.server.BaseHTTPRequestHandler]]:
    """Answers every GET with `answer`, at `address`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        answer: tuple[int, bytes] = (200, b"")
        address = ""

        def do_GET(self) -> None:
            code, body = self.answer
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        Handler.address = f"http://127.0.0.1:{listening.server_address[1]}"
        yield Handler
        listening.shutdown()


@pytest.mark.parametrize(
    ("code", "body", "told"),
    [
        (200, json.dumps({"version": "4", "ray_version": "2.9.0"}).encode(), "runs Ray 2.9.0, and this package needs"),
        (200, b"<html>another service</html>", "no Ray job server answers at"),
        (200, b"{}", "no Ray job server answers at"),
        (200, b"[]", "no Ray job server answers at"),
        (200, b'{"ray_version": "nightly"}', "no Ray job server answers at"),
        (404, b"", "no Ray job server answers at"),
        (502, b"", "no Ray job server answers at"),
        (401, b"who are you", "refuses access"),
    ],
)
def test_what_is_no_head_of_ours_is_told_apart(server: Any, code: int, body: bytes, told: str) -> None:
    server.answer = code, body
    with pytest.raises(HeadError, match=told) as caught:
        connect(server.address)
    assert server.address in caught.value.message
    assert caught.value.hint


def test_an_address_needs_no_http_in_front(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And wins over Ray's own variables, which else win over it."""
    import ray

    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    server.answer = 200, json.dumps({"version": "4", "ray_version": ray.__version__}).encode()
    bare = server.address.removeprefix("http://")
    assert connect(bare).address == connect(f"http://me:secret@{bare}").address == server.address
    with pytest.raises(HeadUnreachable, match=r"127\.0\.0\.1:9"):
        connect()
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", bare)
    assert connect().address == server.address


@pytest.mark.parametrize("address", ["ftp://head:8265", "http://[::1", "http://\xfc..\xfc", "http://head:99999"])
def test_an_address_that_cannot_be_one_is_told(address: str) -> None:
    with pytest.raises(HeadUnreachable) as caught:
        connect(address)
    assert address in caught.value.message


def test_what_tls_lacks_is_told(server: Any, tmp_path: Path) -> None:
    with pytest.raises(HeadError, match=r"nowhere\.pem"):
        connect(server.address, "nowhere.pem")
    (tmp_path / "notes.txt").write_text("no certificate")
    with pytest.raises(HeadError, match="certificate"):
        connect(server.address, str(tmp_path / "notes.txt"))
    with pytest.raises(HeadError, match="the server does not speak TLS"):
        connect(server.address.replace("http:", "https:"))


def test_headers_that_are_no_mapping_are_told(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_HEADERS", "Authorization: x")
    with pytest.raises(HeadError, match="RAY_JOB_HEADERS"):
        connect(server.address)


@pytest.mark.parametrize(
    ("state", "code", "gives"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 3, 3),
        ("FAILED", 1, 1),
        ("FAILED", -9, 1),
        ("FAILED", None, 1),
        ("STOPPED", None, 130),
    ],
)
def test_a_submission_ends_as_its_command_does(state: str, code: int | None, gives: int) -> None:
    assert Submission("id", state, "", "", {}, 0, 1, code).exit_code == gives


class Scripted:
    """A job server's client: one state for each look, and pieces of log, seconds without one (0: for ever, and we are
    interrupted), and None where the connection breaks."""

    def __init__(self, states: list[str | Exception], log: list[str | float | None]) -> None:
        self.states, self.log, self.broken, self.now = states, log, 0, 0.0

    def get_job_info(self, _: str) -> Any:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        names = ("submission_id", "job_id", "metadata", "start_time", "end_time", "driver_exit_code")
        empty = dict.fromkeys(names)
        return SimpleNamespace(status=JobStatus(state), entrypoint="", message="the nodes are coming", **empty)

    get_job_logs = get_job_info

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        """From the start each time, as Ray does."""
        for place, text in enumerate(self.log):
            if text is None and place > self.broken:
                self.broken = place
                raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
            if isinstance(text, str):
                yield text
            elif text and place > self.broken:
                self.now += text
            elif text == 0.0:
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.Event().wait()


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(submit, "_FIRST_NOTE", 0.0)


def test_a_log_that_breaks_off_goes_on_where_it_was(quickly: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that is forwarded breaks every few minutes; the job does not. Nor does it when a proxy has no head for a
    moment, or when nothing was said for longer than a head may be away."""
    away = RuntimeError("Request failed with status code 503: no healthy upstream.")
    states: list[str | Exception] = ["RUNNING", ConnectionError(), away, "RUNNING", "RUNNING", "SUCCEEDED"]
    client = Scripted(states, ["one\ntw", 1.1 * submit._AWAY_SECONDS, None, "o\n", None, "three\n"])
    monkeypatch.setattr(submit, "time", SimpleNamespace(monotonic=lambda: client.now, sleep=time.sleep))
    notes: list[str] = []
    assert "".join(Head(client, "http://h").follow("id", notes.append)) == "one\ntwo\nthree\n"
    assert len(notes) == 4
    assert all("trying again" in note for note in notes)


def test_an_interrupt_ends_the_watch_at_once() -> None:
    """While it waits for the next word: the connection is let go of, and nothing else is said."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job of a shell may have lost
    try:
        with pytest.raises(KeyboardInterrupt):
            list(Head(Scripted(["RUNNING"], ["one\n", 0.0]), "http://h").follow("id", lambda _: None))
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("id", ["", "..", "../version", "a/b", "a?b", "a#b", "a" * 201])
def test_what_is_no_id_becomes_no_part_of_a_url(id: str) -> None:
    """The list of all submissions was taken for one, and what came after a question mark was left out."""
    for asked in (Head(Scripted(["RUNNING"], []), "http://h").get, Head(Scripted(["RUNNING"], []), "http://h").log):
        with pytest.raises(HeadError, match="not a submission id"):
            asked(id)


def test_a_submission_that_waits_says_for_what(quickly: None) -> None:
    client = Scripted(["PENDING", "PENDING", "RUNNING", "SUCCEEDED"], ["done\n"])
    notes: list[str] = []
    assert "".join(Head(client, "http://h").follow("id", notes.append)) == "done\n"
    assert notes == ["waiting for resources: the nodes are coming"]


def test_a_head_that_stays_away_ends_the_watch(quickly: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_AWAY_SECONDS", 0.0)
    with pytest.raises(HeadUnreachable):
        list(Head(Scripted([ConnectionError()], []), "http://h").follow("id", lambda _: None))
