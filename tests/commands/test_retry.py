"""Retry computes the rows again that were rejected for the named reasons, no others; run completes a killed one."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import USAGE_ERROR, main
from jobs.commands import retry as retrying
from jobs.commands.retry import drop_rejects, retry
from jobs.commands.verify import verify
from jobs.config import JobConfig
from jobs.demo import corpus
from jobs.driver import lease
from jobs.output.identity import load_job
from jobs.run import run
from jobs.storage import Storage
from tests.support.in_process import without_ray
from tests.support.outputs import check_whole, rows_of
from tests.support.recipes import small_job
from tests.support.rows import bad, batch, writer

GARBAGE = {0: b"<html>gone</html>", 7: b"", 8: b"<html>gone</html>"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    """2 shards of 20 good rows, of which three each are not: rows 0 and 8 not_an_image, row 7 empty."""
    folder = tmp_path_factory.mktemp("retry") / "job"
    corpus.write_parquet(folder / "in", 2, 20)
    good = next(row.image for row in corpus.rows(0, 20) if row.image and row.image.startswith(b"\xff\xd8"))
    for path in sorted(folder.glob("in/*.parquet")):
        images = [GARBAGE.get(row, good) for row in range(20)]
        replace(path, images)
    config = small_job(folder / "in", folder / "out", limits={"after_rows": 3})
    with without_ray():
        assert run(config).reasons == {"not_an_image": 4, "empty": 2}
    return config


@pytest.fixture
def job(no_ray: None, finished: JobConfig, tmp_path: Path) -> Iterator[JobConfig]:
    """As it was, for each test: in its own place, since where the source is belongs to a job's identity."""
    folder = Path(finished.output.path).parent
    shutil.copytree(folder, tmp_path / "whole")
    yield finished
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "whole", folder)


def replace(path: Path, images: list[bytes]) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index("image"), "image", pa.array(images)), path)


def mend(config: JobConfig) -> None:
    """The bytes of every broken row are good now."""
    for path in sorted(Path(str(config.source.path)).glob("*.parquet")):
        images = pq.read_table(path).column("image").to_pylist()
        replace(path, [images[1]] * len(images))


def test_only_the_named_reasons_are_computed_again(job: JobConfig) -> None:
    """A fixed decoder must not cost the 700 million rows that were fine."""
    before = {path: path.stat().st_mtime_ns for path in Path(job.output.path).glob("rows/*.parquet")}
    mend(job)
    summary = retry(job.output.path, ["not_an_image"])
    assert (summary.rows, summary.reasons, summary.run["rows"]) == (38, {"empty": 2}, 4)
    assert before.items() <= {p: p.stat().st_mtime_ns for p in Path(job.output.path).glob("rows/*.parquet")}.items()
    check_whole(job.output.path, rows_of(2, 20))


def test_rows_that_fail_again_are_rejects_again(job: JobConfig) -> None:
    """All of them did, and that so many rows were rejects stopped the run: "is this the right input?"."""
    summary = retry(job.output.path, ["not_an_image", "empty"])
    assert (summary.rows, summary.reasons, summary.run["rows"]) == (34, {"not_an_image": 4, "empty": 2}, 6)
    check_whole(job.output.path, rows_of(2, 20))


def test_without_such_rejects_nothing_happens(job: JobConfig) -> None:
    """By default: the reasons that time may heal, of which there are none here."""
    before = {path: path.stat().st_mtime_ns for path in Path(job.output.path).rglob("*")}
    assert retry(job.output.path, []).reasons == {"not_an_image": 4, "empty": 2}
    after = {path: path.stat().st_mtime_ns for path in Path(job.output.path).rglob("*")}
    assert {p: t for p, t in before.items() if p.is_file()} == {p: t for p, t in after.items() if p.is_file()}


def test_an_unknown_reason_is_a_wrong_command(job: JobConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """A typo that retries nothing would look like a success."""
    assert main(["retry", job.output.path, "--reason", "not_a_image"]) == USAGE_ERROR
    told = capsys.readouterr().err
    assert "not_a_image: no such reason" in told
    assert "not_an_image" in told
    check_whole(job.output.path, rows_of(2, 20))


def test_a_retry_that_is_killed_after_it_forgot_is_completed_by_run(job: JobConfig) -> None:
    """Forgotten rejects that nobody computes again would be vanished rows."""
    mend(job)
    storage, pinned = load_job(job.output.path)
    assert drop_rejects(storage, pinned, ["not_an_image"], "retry-killed") == 4
    assert not Storage().exists(f"{job.output.path}/_SUCCESS")
    summary = run(job)
    assert (summary.rows, summary.reasons, summary.run["rows"]) == (38, {"empty": 2}, 4)
    check_whole(job.output.path, rows_of(2, 20))


def test_a_damaged_shard_is_whole_again_once_its_file_is(no_ray: None, tmp_path: Path) -> None:
    """A restored shard could not be had: the output was "complete", with ten rows of twenty, for ever."""
    corpus.write_tars(tmp_path / "in", 2, 20)
    path = tmp_path / "in" / "00001.tar"
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    config = small_job(tmp_path / "in", tmp_path / "out")
    short = run(config)
    assert list(short.damaged_shards) == ["00001.tar"]
    path.write_bytes(good)
    whole = retry(str(tmp_path / "out"), ["shard_damaged"])
    assert whole.damaged_shards == {}
    assert whole.rows + whole.rejects > short.rows + short.rejects
    assert all(check.ok for check in verify(str(tmp_path / "out"), deep=True))


def test_a_retry_keeps_its_lease_while_it_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of many objects, and another run could take the output, and finish it, meanwhile."""
    clock, held, rewrite = [time.time()], list[bool](), retrying._rewrite
    monkeypatch.setattr(lease, "time", SimpleNamespace(time=lambda: clock[0], sleep=time.sleep))

    def slowly(*args: Any) -> None:
        clock[0] += lease.LEASE_SECONDS - 10
        rewrite(*args)
        held.append(json.loads((tmp_path / "_lease.json").read_text())["until"] > clock[0])

    monkeypatch.setattr(retrying, "_rewrite", slowly)
    for row in range(3):
        writer(tmp_path).write(batch(bad("a", row, reason="dns")), f"p{row}.parquet")
    config = JobConfig.from_dict({"source": {"path": "in"}, "output": {"path": str(tmp_path)}})
    assert drop_rejects(Storage(), config, ["dns"], "retry") == 3
    assert held == [True, True, True]
