"""Shards of urls: every row is its image's bytes or a reject, in the same tables however often they are read."""

from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pyarrow as pa
import pytest

from jobs.config import FetchConfig
from jobs.sources import BLOCK_ROWS, ReadUnit, urls
from jobs.sources.discover import read
from jobs.sources.lookup import read_rows as look_up
from jobs.storage import Storage
from tests.support.shards import Raw, accounted, listed, refusal, write_parquet

LOCAL = FetchConfig(
    allow_networks=("127.0.0.0/8",), retries=0, requests=32, requests_per_host=32,
    connect_seconds=600, read_seconds=600, total_seconds=600,
)  # fmt: skip
ROWS = 300


class Site(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.asked: Counter[str] = Counter()
        self.slow = Event()
        self.slow.set()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Page(BaseHTTPRequestHandler):
    """/N answers N thousand bytes of N; /gone/N is 404; /slow/N answers when the site lets it."""

    protocol_version = "HTTP/1.1"
    server: Site

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        kind, _, number = self.path.strip("/").rpartition("/")
        if kind == "slow":
            self.server.slow.wait()
        body = number.encode() * 1000
        self.send_response(404 if kind == "gone" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def shards(tmp_path: Path, site: Site) -> Path:
    kinds = {5: "gone/", 7: "slow/", 250: "gone/"}
    columns = {
        "id": list(range(ROWS)),
        "url": [None if n == 9 else site.url(f"{kinds.get(n, '')}{n}") for n in range(ROWS)],
        "text": [f"picture {n}" for n in range(ROWS)],
        "score": [n / ROWS for n in range(ROWS)],
    }
    return write_parquet(tmp_path / "0.parquet", columns)


def tables(path: Path, done: tuple[tuple[int, int], ...] = (), **keys: Any) -> Raw:
    source = listed(path, **keys)
    (one,) = source.shards
    return Raw(list(read(Storage(), source.layout, ReadUnit(one, None, done), LOCAL)))


def test_every_row_is_bytes_or_a_reject_with_its_reason(shards: Path) -> None:
    source = listed(shards, keep=["url"])
    assert source.layout.format == source.pinned_config.format == "urls"
    raw = tables(shards, keep=["url"])
    assert sorted(raw.numbers) == list(range(ROWS))
    assert raw.rejects == {5: "http_404", 9: "no_image", 250: "http_404"}
    assert {row["_stage"] for row in raw.rows if row["row"] in (5, 250)} == {"fetch"}
    assert all(row["_image"] == str(row["row"]).encode() * 1000 for row in raw.rows if not row["_reason"])
    assert all(row["key"] == row["row"] and row["url"] for row in raw.rows if row["row"] != 9)
    assert accounted(raw.tables).complete


def test_tables_hold_the_same_rows_each_time_and_a_slow_answer_holds_up_only_its_own(shards: Path, site: Site) -> None:
    """A block that kills its decoder is found again by what it holds."""
    source, wanted = listed(shards), {tuple(range(a, min(a + BLOCK_ROWS, ROWS))) for a in range(0, ROWS, BLOCK_ROWS)}
    site.slow.clear()
    found: list[tuple[int, ...]] = []
    for table in read(Storage(), source.layout, ReadUnit(source.shards[0]), LOCAL):
        found += [tuple(table.column("row").to_pylist())] if table.num_rows > 1 else []
        if len(found) == len(wanted) - 1:
            site.slow.set()
    assert set(found) == wanted
    assert found[-1][0] == 0  # the table with the slow row came last
    assert {tuple(t.column("row").to_pylist()) for t in tables(shards).tables if t.num_rows > 1} == wanted


def test_rows_that_are_done_or_not_selected_are_not_asked_for(shards: Path, site: Site) -> None:
    raw = tables(shards, done=((0, 200),), where="score < 0.9 and id != 220")
    assert sorted(raw.numbers) == [n for n in range(200, 270) if n != 220]
    assert sum(site.asked.values()) == 69
    assert "/220" not in site.asked


def test_images_that_wait_for_others_are_bounded_and_nothing_is_lost(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "_MAX_HELD", 1000)
    raw = tables(shards)
    assert sorted(raw.numbers) == list(range(ROWS))
    assert accounted(raw.tables).complete


def test_a_look_at_single_rows_asks_for_these_alone(shards: Path, site: Site) -> None:
    wanted = [("0.parquet", row) for row in (3, 270)]
    texts, images = look_up(Storage(), listed(shards), wanted, LOCAL, wanted[1:])
    assert texts == dict(zip(wanted, ["picture 3", "picture 270"], strict=True))
    assert images == {wanted[1]: b"270" * 1000}
    assert sum(site.asked.values()) == 1
    assert look_up(Storage(), listed(shards), wanted, LOCAL)[1] == {wanted[0]: b"3" * 1000, **images}


def test_urls_that_are_wanted_and_not_there_are_one_clear_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "0.parquet", {"url": [1], "image": [b"x"]})
    assert "no column of urls" in refusal(tmp_path, format="urls")
    assert "source.url_column" in refusal(tmp_path, format="urls", url_column="link")
    write_parquet(tmp_path / "0.parquet", {"id": [1]})
    assert "no column of image bytes or urls" in refusal(tmp_path)


def test_a_url_that_is_not_utf8_is_a_reject_also_where_it_is_not_kept(tmp_path: Path) -> None:
    broken = pa.array([b"h\xff", b"http:"], pa.binary()).view(pa.string())
    raw = tables(write_parquet(tmp_path / "0.parquet", {"url": broken}))
    assert raw.rejects == {0: "bad_metadata", 1: "bad_url"}
