"""Every response becomes the right bytes or the right reason, whatever the server does."""

import datetime
import socket
import ssl
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.errors import ClusterError, Reject
from jobs.fetch import hosts
from tests.support import hostile
from tests.support.fetchers import MakeFetcher, fetched, only
from tests.support.hostile import IMAGE, Everywhere, Hostile


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("status/404", "http_404"),
        ("status/410", "http_404"),
        ("status/401", "http_4xx"),
        ("status/403", "http_4xx"),
        ("status/408", "timeout"),
        ("status/418", "http_4xx"),
        ("status/500", "http_5xx"),
        ("status/501", "http_5xx"),
        ("status/503", "http_5xx"),
        ("status/599", "http_5xx"),
        ("status/206", "bad_answer"),
        ("status/304", "bad_answer"),
        ("status/302", "bad_answer"),  # without a Location
        ("status/999", "bad_answer"),
        ("redirect/10000", "bad_answer"),
        ("redirect/loop", "bad_answer"),
        ("to/file:%2F%2F%2Fetc%2Fpasswd", "bad_url"),
        ("to/ftp:%2F%2F127.0.0.1%2Fa", "bad_url"),
        ("to/http:%2F%2Fuser:secret%40127.0.0.1%2Fa", "bad_url"),
        ("garbage", "bad_answer"),
        ("bad_chunks", "bad_answer"),
        ("endless_header", "bad_answer"),
        ("many_headers", "bad_answer"),
        ("encoded/br", "bad_answer"),
        ("encoded/gzip, gzip", "bad_answer"),
        ("encoded/cut", "bad_answer"),
        ("encoded/deflate", b"" + IMAGE),  # gzip under a wrong name: what it is decides
        ("encoded/x-gzip", IMAGE),
        ("endless", "too_large"),
        ("bomb", "too_large"),
        ("lies", "too_large"),
        ("big/1000000", bytes(1_000_000)),
        ("big/1000001", "too_large"),
        ("big/0", b""),
        ("short", "connect"),
        ("reset", "connect"),
        ("redirect/5", IMAGE),
    ],
)
def test_an_answer_has_its_reason(fetcher: MakeFetcher, server: Hostile, path: str, reason: bytes | str) -> None:
    assert only(fetcher(max_bytes=1_000_000, max_redirects=6), server.url(path)) == reason
    assert len(server.requests) <= 7


@pytest.mark.parametrize(("path", "limit"), [("silence", "read_seconds"), ("drip", "total_seconds")])
def test_a_server_that_takes_too_long_is_not_waited_for(
    fetcher: MakeFetcher, server: Hostile, path: str, limit: str
) -> None:
    """Neither ever ends, and no other limit ends it."""
    assert only(fetcher(**{limit: 0.3}), server.url(path)) == "timeout"


def test_a_host_that_takes_no_connection_is_a_timeout(fetcher: MakeFetcher) -> None:
    """Its accept queue is full: connections are neither accepted nor refused."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        assert only(fetcher(connect_seconds=0.3), f"http://127.0.0.1:{full.getsockname()[1]}/") == "timeout"


def test_a_closed_port_and_a_name_without_address_have_reasons_of_their_own(fetcher: MakeFetcher) -> None:
    class Nowhere(Everywhere):
        async def resolve(self, *_: Any, **__: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert only(fetcher(), f"http://127.0.0.1:{unused.getsockname()[1]}/") == "connect"
    found = dict(fetcher(Nowhere()).fetch(["http://gone.example/"]))
    assert isinstance(found[0], Reject)
    assert (found[0].reason, found[0].message) == ("dns", "Name or service not known")


def test_tls_without_a_certificate_that_can_be_trusted_is_no_connection(fetcher: MakeFetcher, tmp_path: Path) -> None:
    with Hostile(tls=_self_signed(tmp_path)) as server:
        found = dict(fetcher(retries=2).fetch([server.url("image", "a.example", scheme="https")]))
        assert isinstance(found[0], Reject)
        assert found[0].reason == "connect"
        assert "certificate" in found[0].message.lower()
        assert server.requests == []


def test_a_failure_that_may_pass_is_tried_again(fetcher: MakeFetcher, server: Hostile) -> None:
    patient = fetcher(retries=2)
    urls = [server.url(f"{path}/{i}") for i, path in enumerate(["flaky/503/2", "flaky/500/1", "flaky/408/1"])]
    assert fetched(patient, *urls) == [IMAGE] * 3
    assert only(patient, server.url("flaky/503/3/x")) == "http_5xx"
    assert server.seen["/flaky/503/3/x"] == 3


@pytest.mark.parametrize(
    "path", ["status/404", "status/403", "status/501", "robots", "redirect/loop", "garbage", "bomb"]
)
def test_a_failure_that_lasts_is_not(fetcher: MakeFetcher, server: Hostile, path: str) -> None:
    only(fetcher(retries=5, max_redirects=0, max_bytes=1000), server.url(path))
    assert len(server.requests) == 1


def test_a_cut_body_is_asked_for_again_and_never_taken(fetcher: MakeFetcher, server: Hostile) -> None:
    """A short image would look like a truncated one."""
    assert fetched(fetcher(retries=1), server.url("short"), server.url("reset")) == ["connect", "connect"]
    assert server.seen == {"/short": 2, "/reset": 2}


def test_what_a_server_says_without_being_asked_is_no_answer(fetcher: MakeFetcher, server: Hostile) -> None:
    """It sends more than its Content-Length, which the next url on the same connection could take for its response."""
    asking = fetcher(requests_per_host=2)
    assert fetched(asking, server.url("overlong"), server.url("hold/0.1")) == [IMAGE, IMAGE]
    connections = server.connections
    urls = [server.url(f"named/{i}") for i in range(4)]
    assert fetched(asking, *urls) == [f"/named/{i}".encode() for i in range(4)]
    assert connections < server.connections < connections + 4


@pytest.mark.parametrize(("status", "seconds"), [("429", "1"), ("503", "1"), ("429", "date"), ("429", "")])
def test_a_host_that_asks_for_rest_gets_it(fetcher: MakeFetcher, server: Hostile, status: str, seconds: str) -> None:
    """The pause applies to the whole host, not only to this url."""
    asking = fetcher(retries=1, requests_per_host=1)
    urls = [server.url(f"rest/{status}/{seconds}/x", "a.example"), server.url("image/1", "a.example")]
    assert fetched(asking, *urls) == [IMAGE, IMAGE]
    first, *later = [each.at for each in server.requests]
    assert all(at - first > 0.9 for at in later)


def test_a_host_at_rest_holds_up_no_other(fetcher: MakeFetcher, server: Hostile) -> None:
    urls = [server.url("rest/429/50/x", "a.example"), *(server.url(f"named/{i}", "b.example") for i in range(20))]
    results = fetcher(retries=1).fetch(urls)
    assert sorted(index for index, _ in islice(results, 20)) == list(range(1, 21))
    results.close()  # type: ignore[attr-defined]


def test_a_host_that_asks_for_too_much_rest_is_not_asked_again(fetcher: MakeFetcher, server: Hostile) -> None:
    asking = fetcher(retries=2, requests_per_host=1)
    urls = [server.url("rest/429/3000/x"), *(server.url(f"image/{i}") for i in range(20))]
    found = [result for _, result in sorted(asking.fetch(urls), key=lambda each: each[0])]
    assert {result.reason.value for result in found if isinstance(result, Reject)} == {"throttled"}
    assert len(found) == 21
    assert len(server.requests) == 1


def test_a_host_that_does_not_answer_is_not_asked_by_every_url(fetcher: MakeFetcher, server: Hostile) -> None:
    """A dead host with a thousand urls would block a table of rows for an hour."""
    urls = [server.url(f"silence/{i}", "dead.example") for i in range(200)]
    assert fetched(fetcher(read_seconds=0.3, retries=1), *urls) == ["timeout"] * 200
    assert len(server.requests) <= 2 * hosts.MAX_UNANSWERED


def test_a_host_that_answers_now_and_then_is_asked_on(fetcher: MakeFetcher, server: Hostile) -> None:
    urls = [server.url("image" if i % 5 == 0 else "reset") + f"/{i}" for i in range(100)]
    assert fetched(fetcher(requests_per_host=1), *urls) == [IMAGE if i % 5 == 0 else "connect" for i in range(100)]


def test_a_down_host_is_asked_again_after_a_while(
    fetcher: MakeFetcher, server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "DOWN_SECONDS", 0.2)
    asking = fetcher()
    assert set(fetched(asking, *[server.url(f"reset/{i}") for i in range(20)])) == {"connect"}
    time.sleep(0.3)
    assert only(asking, server.url("image")) == IMAGE


STARTS = [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 302 Found\r\nLocation: ", b"HTTP/1.0 200\r\n", b"HTTP/1.1 100 C\r\n\r\n"]
HEADERS = [b"", b"Content-Length: ", b"Transfer-Encoding: ", b"X-Robots-Tag: ", b"Set-Cookie: ", b"Retry-After: "]
ENDS = [b"", b"\r\n\r\n", b"\n\n", b"\r\nContent-Encoding: gzip\r\n\r\n", b"\r\n\r\nffff\r\n"]
ANSWERS = st.tuples(st.sampled_from(STARTS), st.sampled_from(HEADERS), st.binary(max_size=40), st.sampled_from(ENDS))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.one_of(st.binary(max_size=200), ANSWERS.map(b"".join)))
def test_no_bytes_of_a_server_are_more_than_a_reject(
    fetcher: MakeFetcher, server: Hostile, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    async def fuzz(hostile: Hostile, request: Any, writer: Any) -> None:
        writer.write(sent)
        await writer.drain()
        writer.close()

    monkeypatch.setitem(hostile.BEHAVIOURS, "fuzz", fuzz)
    assert only(fetcher(), server.url("fuzz")) is not None


def test_a_machine_without_files_to_open_is_an_error_of_the_job(
    fetcher: MakeFetcher, server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is at fault, not the row: thousands of rejects would be wrong."""
    from jobs.fetch.addresses import AddressPolicy

    def none_left(*args: Any) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(AddressPolicy, "open_socket", none_left)
    with pytest.raises(ClusterError, match="Too many open files"):
        only(fetcher(), server.url("image"))


def _self_signed(folder: Path) -> ssl.SSLContext:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.example")]), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "tls.pem").write_bytes(
        key.private_bytes(pem, form, serialization.NoEncryption()) + signed.public_bytes(pem)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.pem")
    return context
