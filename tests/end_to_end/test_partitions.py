"""Runs over parts of a source make one output together, and never two runs write one part."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.config import JobConfig
from jobs.demo import corpus
from jobs.driver.lease import Lease
from jobs.driver.tasks import Partition
from jobs.errors import OutputError
from jobs.run import run
from jobs.storage import Storage
from tests.support.outputs import check_whole, objects, rows_of
from tests.support.recipes import small_job

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path) -> JobConfig:
    """6 shards of 10 rows: three in each of two parts; of three parts the first has none."""
    corpus.write_parquet(tmp_path / "in", 6, 10)
    return small_job(tmp_path / "in", tmp_path / "out", models={"align": None})


def test_parts_in_any_order_make_one_output(no_ray: None, config: JobConfig) -> None:
    """An early _SUCCESS starts a training on a third of the data."""
    marks = []
    for index in (3, 1, 2):
        run(config, Partition(index, 3))
        marks.append(Storage().exists(f"{config.output.path}/_SUCCESS"))
    assert marks == [False, False, True]
    check_whole(config.output.path, rows_of(6, 10))
    before = objects(config.output.path)
    assert not run(config).run  # also without parts
    assert objects(config.output.path) == before


def test_a_part_that_somebody_writes_is_refused_and_others_are_not(no_ray: None, config: JobConfig) -> None:
    """A job array that starts one index twice; the message says whom to stop."""
    theirs = Lease(Storage(), config.output.path, "their-run", Partition(1, 2))
    theirs.acquire()
    with pytest.raises(OutputError, match=f"their-run on {socket.gethostname()} .process {os.getpid()}. is writing"):
        run(config, Partition(1, 2))
    run(config, Partition(2, 2))
    theirs.release()
    run(config, Partition(1, 2))
    check_whole(config.output.path, rows_of(6, 10))


@pytest.mark.slow
def test_two_parts_that_begin_at_once_on_one_cluster_both_end(
    ray_session: None, config: JobConfig, tmp_path: Path
) -> None:
    """The readers of one had taken the cores that the other's actors needed, and each waited for the other."""
    import ray

    (tmp_path / "job.yaml").write_text(config.to_yaml())
    where = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-m", "jobs", "run", str(tmp_path / "job.yaml"), "--part"]
    runs = [
        subprocess.Popen([*command, part], env=where, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for part in ("1/2", "2/2")
    ]
    said = [each.communicate(timeout=500)[1] for each in runs]
    assert [each.returncode for each in runs] == [0, 0], said
    check_whole(config.output.path, rows_of(6, 10))


def test_a_run_without_parts_is_refused_while_a_part_is_written(no_ray: None, config: JobConfig) -> None:
    """The array job is still at it, and somebody starts the whole: every row would be computed and written twice."""
    Lease(Storage(), config.output.path, "their-run", Partition(1, 3)).acquire()
    with pytest.raises(OutputError, match="their-run"):
        run(config)
