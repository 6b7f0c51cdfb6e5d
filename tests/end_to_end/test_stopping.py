"""A run is stopped, or loses a process or a machine: it ends in order or goes on, and no row is lost or twice."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import FAILED, INTERRUPTED, main
from jobs.commands.verify import show, verify
from jobs.config import JobConfig
from jobs.demo import corpus
from jobs.output.layout import FOLDERS
from jobs.run import run
from tests.end_to_end.test_run import addresses, read, small_job
from tests.test_log import events

ROOT = Path(__file__).parents[2]
UNFINISHED = {"every row of every shard is committed", "_SUCCESS is there"}
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


@pytest.fixture
def config(tmp_path: Path) -> JobConfig:
    """6 shards of 80 rows; its recipe is at tmp_path/job.yaml."""
    corpus.write_parquet(tmp_path / "in", 6, 80)
    made = small_job(tmp_path / "in", tmp_path / "out")
    (tmp_path / "job.yaml").write_text(made.to_yaml())
    return made


def check(config: JobConfig) -> None:
    given = [(f"part-{shard:05d}.parquet", row) for shard in range(6) for row in range(80)]
    assert addresses(*(read(config.output.path, folder) for folder in FOLDERS)) == given
    checks = verify(config.output.path, deep=True)
    assert all(check.ok for check in checks), show(checks)


def until(true: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


@contextlib.contextmanager
def started(folder: Path, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """In a session of its own, with a Ray of its own; nothing of it is left in the end. Its stderr is at folder/log."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            for pid in processes(lambda stat: stat[3] == str(process.pid)):  # its session, which is ours
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def processes(wanted: Callable[[list[str]], bool]) -> list[int]:
    """Those whose /proc/PID/stat, from the state on, is wanted."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if wanted(stat.read_text().rpartition(")")[2].split()):
                found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
def test_ctrl_c_ends_a_run_in_order(ray_session: None, tmp_path: Path, config: JobConfig) -> None:
    """A terminal sends it to every process of the group, Ray's too. SIGTERM: a submission that is stopped."""
    with started(tmp_path, "-m", "jobs", "run", str(tmp_path / "job.yaml")) as process:
        until(lambda: list(tmp_path.glob("out/rows/*.parquet")) or process.poll() is not None)
        os.killpg(process.pid, signal.SIGINT)
        code = process.wait(90)
    log = (tmp_path / "log").read_text()
    assert code == INTERRUPTED, log
    assert [line for line in log.splitlines() if line.startswith("error: ")] == [
        "error: stopped by SIGINT; rows with results are committed"
    ]
    assert "\n  hint: " in log
    assert "Traceback" not in log
    assert json.loads((tmp_path / "out" / "_progress.json").read_text())["state"] == "stopped"
    assert not list(tmp_path.glob("out/_lease*"))
    assert {check.claim for check in verify(config.output.path, deep=True) if not check.ok} <= UNFINISHED
    assert 0 < run(config).run["rows"] < 480
    check(config)


@pytest.mark.slow
def test_a_signal_while_ray_starts_ends_a_run_in_order(tmp_path: Path, config: JobConfig) -> None:
    """A cluster that preempts a job in its first minute would see a crash."""
    with started(tmp_path, "-m", "jobs", "run", str(tmp_path / "job.yaml")) as process:
        until(lambda: "source  " in (tmp_path / "log").read_text())
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == INTERRUPTED
    assert "\nerror: " in (tmp_path / "log").read_text() or "interrupted" in (tmp_path / "log").read_text()


def test_a_corpus_of_garbage_stops_early_and_says_why(
    ray_session: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A wrong bucket: 700 million rejects, at the price of a week of GPUs."""
    (tmp_path / "in").mkdir()
    for shard in range(60):
        rows = [{"id": i, "text": "x", "image": b"<html>gone</html>" if i % 3 else b""} for i in range(100)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in" / f"{shard:03d}.parquet")
    limits = {"after_rows": 200, "max_reject_fraction": 0.5}
    config = small_job(tmp_path / "in", tmp_path / "out", limits=limits)
    tree = config.model_dump()
    tree["source"]["keep"] = []
    (tmp_path / "job.yaml").write_text(JobConfig.from_dict(tree).to_yaml())
    assert main(["run", str(tmp_path / "job.yaml"), "--log", "json"]) == FAILED
    error = events(capfd.readouterr().err)[-1]
    told = error["message"]
    assert "not_an_image" in told
    assert told.index("not_an_image") < told.index("empty")
    assert (error["event"], error["code"], error["reasons"]["not_an_image"] > 100) == ("error", FAILED, True)
    assert all(0 < sum(reasons.values()) <= 100 for reasons in error["worst_shards"].values())
    assert set(error["worst_shards"]) <= {f"{shard:03d}.parquet" for shard in range(60)}
    progress = json.loads((tmp_path / "out" / "_progress.json").read_text())
    assert (progress["state"], progress["stages"]["decode"]["rows"] < 3000) == ("stopped", True)
    assert not list(tmp_path.glob("out/_lease*"))


@pytest.mark.slow
@pytest.mark.parametrize("title", ["ray::MapWorker", "ray::MapBatches|ray::Read"], ids=["annotate", "decode"])
def test_a_process_that_is_killed_costs_nothing_but_time(
    ray_session: None, tmp_path: Path, config: JobConfig, title: str
) -> None:
    """The kernel's OOM killer takes the biggest process; a driver's bug takes the one with the GPU."""
    killed: list[int] = []

    def kill() -> None:
        if title == "ray::MapWorker":  # decoding is over by then
            until(lambda: list(tmp_path.glob("out/rows/*.parquet")))
        until(lambda: killed.extend(ours(title)) is None and killed)  # type: ignore[func-returns-value]
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    summary = run(config)
    killer.join()
    assert killed
    assert summary.rows + summary.rejects == 480
    check(config)


def ours(titles: str) -> list[int]:
    """Processes of this test's Ray that do this right now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            said = path.read_text()
            if any(said.startswith(title) for title in titles.split("|")) and os.getpid() in above(path.parent):
                found.append(int(path.parent.name))
    return found


def above(process: Path) -> list[int]:
    """The process's parents."""
    parents = [int(process.name)]
    while parents[-1] > 1:
        parents.append(int(Path(f"/proc/{parents[-1]}/stat").read_text().rpartition(")")[2].split()[1]))
    return parents
