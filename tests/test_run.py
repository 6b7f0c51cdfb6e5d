"""The main job from end to end: every row of the source comes out exactly once, whatever happens on the way.

The same tests run on folders and on S3, on Parquet shards and on tars.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.config import JobConfig
from jobs.demo import corpus
from jobs.errors import Reason
from jobs.run import run
from jobs.storage import Storage
from jobs.summary import Summary
from tests.conftest import demo_job, put_folder

KEPT = ["shard", "row", "key", "url", "width", "height"]


@dataclass(frozen=True)
class Finished:
    """A job that ran, and KEPT of every row its source holds."""

    config: JobConfig
    summary: Summary
    given: pa.Table

    @property
    def out(self) -> str:
        return self.config.output.path


def small_job(source: str | Path, output: str | Path, **sections: Any) -> JobConfig:
    """Small batches and files, so that there are many objects."""
    tree = demo_job(source, output, compute={"batch_size": 8}, **sections).model_dump()
    tree["output"]["rows_per_file"] = 8
    return JobConfig.of(tree)


def in_parquet(path: Path) -> pa.Table:
    table = pq.read_table(path, columns=["id", *KEPT[3:]])
    address = [pa.repeat(path.name, len(table)), pa.array(range(len(table)), pa.int32())]
    return pa.table([*address, *table.columns], names=KEPT)


def in_tar(path: Path) -> pa.Table:
    with tarfile.open(path) as tar:
        about = {m.name.removesuffix(".json"): json.loads(_bytes(tar, m)) for m in tar if m.name.endswith(".json")}
    columns = [[about[key][name] for key in about] for name in KEPT[3:]]
    address = [pa.repeat(path.name, len(about)), pa.array(range(len(about)), pa.int32()), list(about)]
    return pa.table([*address, *columns], names=KEPT)


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


@pytest.fixture(scope="module", params=["parquet-local", "parquet-s3", "tars-local", "tars-s3"])
def finished(
    s3: str, ray_session: None, scenes_parquet: Path, scenes_tars: Path, tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Finished:  # fmt: skip
    form, where = request.param.split("-")
    folder, ending, listed = {
        "parquet": (scenes_parquet, "*.parquet", in_parquet), "tars": (scenes_tars, "*.tar", in_tar),
    }[form]  # fmt: skip
    given = pa.concat_tables([listed(path) for path in sorted(folder.glob(ending))])
    if where == "local":
        config = small_job(folder, tmp_path_factory.mktemp(form) / "out")
    else:
        fsspec.filesystem("s3").mkdir(f"run-{form}")
        put_folder(folder, f"s3://run-{form}/in")
        # Ray's processes may be older than the server and not have its variables: the recipe says it all.
        reach = {"endpoint_url": s3, "anonymous": True, "region": "us-east-1"}
        config = small_job(f"s3://run-{form}/in", f"s3://run-{form}/out", storage=reach)
    return Finished(config, run(config), given)


def read(out: str, folder: str) -> pa.Table:
    entries = Storage().find(f"{out}/{folder}")
    return pa.concat_tables([pq.read_table(Storage().open(entry)) for entry in entries]).sort_by(
        [("shard", "ascending"), ("row", "ascending")]
    )


def addresses(*tables: pa.Table) -> list[tuple[str, int]]:
    return sorted(
        (shard, row)
        for table in tables
        for shard, row in zip(table.column("shard").to_pylist(), table.column("row").to_pylist(), strict=True)
    )


def objects(out: str) -> dict[str, Any]:
    """Name and time of everything in the output."""
    fs, path = fsspec.core.url_to_fs(out)
    fs.invalidate_cache()
    return {name: info.get("mtime", info.get("LastModified")) for name, info in fs.find(path, detail=True).items()}


def test_every_row_of_the_source_comes_out_exactly_once(finished: Finished) -> None:
    rows, rejects = read(finished.out, "rows"), read(finished.out, "rejects")
    assert addresses(rows, rejects) == addresses(finished.given)
    assert (rows.num_rows, rejects.num_rows) == (finished.summary.rows, finished.summary.rejects)
    assert rows.num_rows == 116


def test_keys_and_kept_columns_equal_the_source_in_value_and_type(finished: Finished) -> None:
    """Ids that travelled as floats lose their last digits: COYO's need 45 bits and more."""
    rows = read(finished.out, "rows").select(KEPT)
    assert {f.name: f.type for f in rows.schema} == {f.name: f.type for f in finished.given.schema}
    truth = {(row["shard"], row["row"]): row for row in finished.given.to_pylist()}
    assert all(row == truth[row["shard"], row["row"]] for row in rows.to_pylist())
    for row in read(finished.out, "rejects").to_pylist():
        assert row["key"] == truth[row["shard"], row["row"]]["key"]


def test_every_reject_says_where_why_and_what(finished: Finished) -> None:
    rejects = read(finished.out, "rejects").to_pylist()
    assert all(row["stage"] and row["message"] and row["reason"] in set(Reason) for row in rejects)
    found = [row["reason"] for row in rejects]
    assert {reason: found.count(reason) for reason in found} == finished.summary.reasons


def test_results_are_whole(finished: Finished) -> None:
    rows = read(finished.out, "rows")
    for name in ("image_embedding", "text_embedding"):
        vectors = np.stack(rows.column(name).to_numpy()).astype(np.float32)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-3)
    for ids, probs in zip(rows.column("labels").to_pylist(), rows.column("label_probs").to_pylist(), strict=True):
        assert len(set(ids)) == len(probs) == 5
        assert probs == sorted(probs, reverse=True)
    assert sum(rows.column(name).null_count for name in rows.column_names) == 0


def test_what_belongs_to_an_output_is_there(finished: Finished) -> None:
    fs, path = fsspec.core.url_to_fs(finished.out)
    assert len(json.loads(fs.cat_file(f"{path}/_labels.json"))) == 64
    summary = json.loads(fs.cat_file(f"{path}/_summary.json"))
    assert (summary["rows"], summary["run"]["rows"]) == (116, finished.given.num_rows)
    assert fs.exists(f"{path}/_SUCCESS")


def test_the_pinned_recipe_runs_again_and_does_nothing(finished: Finished) -> None:
    before = objects(finished.out)
    assert len([name for name in before if "/rows/" in name]) > 5
    fs, path = fsspec.core.url_to_fs(finished.out)
    summary = run(JobConfig.of(yaml.safe_load(fs.cat_file(f"{path}/_job.yaml"))))
    assert summary.resumed_nothing
    assert (summary.rows, summary.reasons) == (116, finished.summary.reasons)
    assert objects(finished.out) == before


def cut_down(process: "subprocess.Popen[bytes]", how: signal.Signals) -> int:
    """The signal to the whole group, as a terminal or a scheduler sends it; then whatever of Ray is left of it."""
    os.killpg(process.pid, how)
    code = process.wait(60)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[3]) == process.pid:  # its session, which is ours
                os.kill(int(stat.parent.name), signal.SIGKILL)
    return code


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)], ids=["kill -9", "ctrl-c"])
def test_a_run_that_is_killed_goes_on_where_it_was(
    ray_session: None, tmp_path: Path, how: signal.Signals, code: int
) -> None:
    """Spot machines go without a word; what is committed stays, what is not is computed, nothing comes twice."""
    corpus.write_parquet(tmp_path / "in", 6, 80)
    config = small_job(tmp_path / "in", tmp_path / "out")
    (tmp_path / "job.yaml").write_text(config.to_yaml())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs", "run", str(tmp_path / "job.yaml")], cwd=Path(__file__).parents[1],
            env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            while not list(tmp_path.glob("out/rows/*.parquet")):
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.01)
        finally:
            ended = cut_down(process, how)
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert ended == code, (tmp_path / "log").read_text()
    survived = {name for name in objects(config.output.path) if name.endswith(".parquet")}
    summary = run(config)
    assert 0 < summary.run["rows"] < 480
    assert survived <= set(objects(config.output.path))
    given = pa.concat_tables([in_parquet(path) for path in sorted(tmp_path.glob("in/*.parquet"))])
    assert addresses(read(config.output.path, "rows"), read(config.output.path, "rejects")) == addresses(given)
