"""Images that kill or hang their decoder: each is one reject, and every row around it has a result."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import DONE
from jobs.config import JobConfig
from jobs.demo import corpus
from tests.test_run import addresses, read, small_job

ROOT = Path(__file__).parents[1]
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
    (tmp_path / "job.yaml").write_text(JobConfig.of(tree).to_yaml())
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "sitecustomize.py").write_text(PLUGIN)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ended = subprocess.run(
        [sys.executable, "-m", "jobs", "run", str(tmp_path / "job.yaml")], cwd=ROOT, capture_output=True, text=True,
        env={**environment, "PYTHONPATH": str(tmp_path / "plugin")}, timeout=280,
    )  # fmt: skip
    assert ended.returncode == DONE, ended.stderr
    rows, rejects = (read(str(tmp_path / "out"), folder) for folder in ("rows", "rejects"))
    reasons = {(row["shard"], row["row"]): row["reason"] for row in rejects.to_pylist()}
    assert {address: reasons[address] for address in poison} == dict(
        zip(poison, ["decode_crashed", "decode_timeout"], strict=True)
    )
    assert sum(reason.startswith("decode_") for reason in reasons.values()) == 2
    assert addresses(rows, rejects) == [(f"part-{s:05d}.parquet", row) for s in range(3) for row in range(30)]
    assert "Traceback" not in ended.stderr
