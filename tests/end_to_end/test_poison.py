"""Images that kill or hang their decoder: each is one reject, and every row around it has a result."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import DONE
from jobs.config import JobConfig
from jobs.demo import corpus
from jobs.sources import BLOCK_ROWS
from tests.support.outputs import addresses, read
from tests.support.recipes import small_job

ROOT = Path(__file__).parents[2]
ROWS = 5 * BLOCK_ROWS
KILLS, HANGS = b"KILLS-ITS-DECODER", b"HANGS-ITS-DECODER"
PLUGIN = '''
"""Every Python below this folder has a Pillow with two more formats: as a C library with a bug would have them."""
import os, signal, sys, time
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder


def kill(*_):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(*_):
    while True:
        time.sleep(60)


class Finder(MetaPathFinder):
    """Registers them as soon as Pillow has been imported, and costs nothing where it never is."""

    def find_spec(self, name, path=None, target=None):
        if name != "PIL.Image":
            return None
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def load_more(module):
            load(module)
            module.register_open("KILLS", kill, lambda head: head.startswith(b"KILLS-ITS"))
            module.register_open("HANGS", hang, lambda head: head.startswith(b"HANGS-ITS"))

        spec.loader.exec_module = load_more
        return spec


sys.meta_path.insert(0, Finder())
'''


def start(folder: Path, config: JobConfig) -> subprocess.CompletedProcess[str]:
    """A run with the two formats, to its end."""
    (folder / "job.yaml").write_text(config.to_yaml())
    (folder / "plugin").mkdir()
    (folder / "plugin" / "sitecustomize.py").write_text(PLUGIN)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-m", "jobs", "run", str(folder / "job.yaml")], cwd=ROOT, capture_output=True, text=True,
        env={**environment, "PYTHONPATH": str(folder / "plugin")}, timeout=500,
    )  # fmt: skip


@pytest.mark.slow
def test_images_that_kill_or_hang_their_decoder_are_two_rejects(tmp_path: Path) -> None:
    """One such file in 700 million, and a run that dies at the same place each time it is started again."""
    corpus.write_parquet(tmp_path / "in", 3, 30)
    poison = {("part-00000.parquet", 5): KILLS, ("part-00002.parquet", 20): HANGS}
    for (shard, row), magic in poison.items():
        table = pq.read_table(tmp_path / "in" / shard)
        images = table.column("image").to_pylist()
        images[row] = magic + bytes(100)
        column = table.schema.get_field_index("image")
        pq.write_table(table.set_column(column, "image", pa.array(images)), tmp_path / "in" / shard)
    tree = small_job(tmp_path / "in", tmp_path / "out", limits={"decode_seconds": 8.0}).model_dump()
    tree["models"]["align"] = None
    ended = start(tmp_path, JobConfig.from_dict(tree))
    assert ended.returncode == DONE, ended.stderr
    rows, rejects = (read(str(tmp_path / "out"), folder) for folder in ("rows", "rejects"))
    reasons = {(row["shard"], row["row"]): row["reason"] for row in rejects.to_pylist()}
    assert {address: reasons[address] for address in poison} == dict(
        zip(poison, ["decode_crashed", "decode_timeout"], strict=True)
    )
    assert sum(reason.startswith("decode_") for reason in reasons.values()) == 2
    assert addresses(rows, rejects) == [(f"part-{s:05d}.parquet", row) for s in range(3) for row in range(30)]
    assert "Traceback" not in ended.stderr


class Page(BaseHTTPRequestHandler):
    """/N is a picture; the last one kills. One of each table is slow: the first tables at first, then the last ones."""

    asked: Counter[str] = Counter()
    picture = b""

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        number, turn = int(self.path.strip("/")), self.asked[self.path]
        last = number == ROWS - 1
        table = number // BLOCK_ROWS
        slow = 5 if last else (table if turn > 1 else ROWS // BLOCK_ROWS - table) * (number % BLOCK_ROWS == 5)
        time.sleep(slow)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(KILLS + bytes(100) if last else self.picture)


@pytest.mark.slow
def test_a_process_that_dies_while_urls_come_in_another_order_costs_no_row(tmp_path: Path) -> None:
    """Ray repeats its task and goes on at the fourth table, which is another one now: rows were lost, others twice."""
    Page.picture = next(row.image for row in corpus.rows(0, 9) if row.image and row.image.startswith(b"\xff\xd8"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        urls = [f"http://127.0.0.1:{site.server_port}/{number}" for number in range(ROWS)]
        (tmp_path / "in").mkdir()
        pq.write_table(pa.table({"url": urls, "id": range(ROWS)}), tmp_path / "in" / "0.parquet")
        # With a second one, Ray fuses fetching and decoding.
        pq.write_table(pa.table({"url": urls[9:18], "id": range(9)}), tmp_path / "in" / "1.parquet")
        fetch = {"allow_networks": ["127.0.0.0/8"], "requests_per_host": 64}
        tree = small_job(tmp_path / "in", tmp_path / "out", fetch=fetch).model_dump()
        tree["source"]["keep"], tree["models"]["align"] = [], None
        ended = start(tmp_path, JobConfig.from_dict(tree))
        site.shutdown()
    assert ended.returncode == DONE, ended.stderr
    rows, rejects = (read(str(tmp_path / "out"), folder) for folder in ("rows", "rejects"))
    given = [("0.parquet", row) for row in range(ROWS)] + [("1.parquet", row) for row in range(9)]
    assert addresses(rows, rejects) == given
    assert rejects.column("reason").to_pylist() == ["decode_crashed"]
