"""A run is stopped, or loses a process or a machine: it ends in order or goes on, and no row is lost or twice."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import FAILED, INTERRUPTED, main
from jobs.commands.verify import verify
from jobs.config import JobConfig
from jobs.demo import corpus
from jobs.run import run
from tests.support.events import events
from tests.support.outputs import check_whole, rows_of
from tests.support.processes import ours, retire_workers, started, until
from tests.support.recipes import small_job

UNFINISHED = {"every row of every shard is committed", "_SUCCESS is there"}


@pytest.fixture
def config(tmp_path: Path) -> JobConfig:
    """6 shards of 80 rows; its recipe is at tmp_path/job.yaml."""
    corpus.write_parquet(tmp_path / "in", 6, 80)
    made = small_job(tmp_path / "in", tmp_path / "out")
    (tmp_path / "job.yaml").write_text(made.to_yaml())
    return made


@pytest.mark.slow
def test_ctrl_c_ends_a_run_in_order(ray_session: None, tmp_path: Path, config: JobConfig) -> None:
    """A terminal sends it to every process of the group, Ray's too. SIGTERM: a submission that is stopped."""
    with started(tmp_path, "-m", "jobs", "run", str(tmp_path / "job.yaml")) as process:
        until(lambda: list(tmp_path.glob("out/rows/*.parquet")) or process.poll() is not None)
        os.killpg(process.pid, signal.SIGINT)
        code = process.wait(500)
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
    check_whole(config.output.path, rows_of(6, 80))


@pytest.mark.slow
def test_a_signal_while_ray_starts_ends_a_run_in_order(tmp_path: Path, config: JobConfig) -> None:
    """A cluster that preempts a job in its first minute would see a crash."""
    with started(tmp_path, "-m", "jobs", "run", str(tmp_path / "job.yaml")) as process:
        until(lambda: "source  " in (tmp_path / "log").read_text())
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(500) == INTERRUPTED
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
    retire_workers()
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
    check_whole(config.output.path, rows_of(6, 80))
