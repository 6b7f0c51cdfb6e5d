"""The main job from end to end: every row of the source comes out exactly once, whatever happens on the way.

The same tests run on folders and on S3, on Parquet shards and on tars, with Ray and without.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.config import JobConfig
from jobs.demo import corpus
from jobs.errors import Reason
from jobs.output.summary import Summary
from jobs.run import run
from tests.support.in_process import without_ray
from tests.support.outputs import addresses, objects, read
from tests.support.processes import cut_down
from tests.support.recipes import small_job
from tests.support.shards import put_folder

ADDRESS = {"shard": "string", "row": "int32"}
TYPES = {
    "parquet": ADDRESS | {"key": "int64", "url": "string", "width": "int32", "height": "int32"},
    "tars": ADDRESS | {"key": "string", "url": "string", "width": "int64", "height": "int64"},
}


@dataclass(frozen=True)
class Finished:
    """A job that ran, and what its source holds."""

    form: str
    out: str
    summary: Summary
    given: dict[tuple[str, int], tuple[Any, ...]]


def given(form: str, shards: int, count: int) -> dict[tuple[str, int], tuple[Any, ...]]:
    """What a drawn source holds, by address: key, url, width and height. Tars have no sample for a failed download."""
    found: dict[tuple[str, int], tuple[Any, ...]] = {}
    for shard in range(shards):
        name = f"part-{shard:05d}.parquet" if form == "parquet" else f"{shard:05d}.tar"
        rows = [row for row in corpus.rows(shard, count) if form == "parquet" or row.image is not None]
        for i, row in enumerate(rows):
            found[name, i] = (row.id if form == "parquet" else row.key, row.url, row.width, row.height)
    return found


def here(form: str, where: str) -> Any:
    return pytest.param((form, where, without_ray), id=f"{form}-{where}")


def on_ray(form: str, where: str) -> Any:
    return pytest.param((form, where, contextlib.nullcontext), id=f"{form}-{where}-ray", marks=pytest.mark.ray)


@pytest.fixture(
    scope="module",
    params=[here("parquet", "s3"), here("tars", "local"), on_ray("parquet", "local"), on_ray("tars", "s3")],
)
def finished(
    s3: str, scenes_parquet: Path, scenes_tars: Path, tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Finished:  # fmt: skip
    form, where, running = request.param
    if running is not without_ray:
        request.getfixturevalue("ray_session")
    folder = {"parquet": scenes_parquet, "tars": scenes_tars}[form]
    if where == "local":
        config = small_job(folder, tmp_path_factory.mktemp(form) / "out")
    else:
        _public(f"run-{form}")
        put_folder(folder, f"s3://run-{form}/in")
        # Ray's processes may be older than the server and lack its credentials.
        reach = {"endpoint_url": s3, "anonymous": True, "region": "us-east-1"}
        config = small_job(f"s3://run-{form}/in", f"s3://run-{form}/out", storage=reach)
    with running():
        return Finished(form, config.output.path, run(config), given(form, 3, 40))


def _public(bucket: str) -> None:
    fs = fsspec.filesystem("s3")
    fs.mkdir(bucket)
    everything = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": [f"arn:aws:s3:::{bucket}/*"]}
    fs.call_s3("put_bucket_policy", Bucket=bucket, Policy=json.dumps({"Statement": [everything]}))


def test_every_row_of_the_source_comes_out_exactly_once(finished: Finished) -> None:
    rows, rejects = read(finished.out, "rows"), read(finished.out, "rejects")
    assert addresses(rows, rejects) == sorted(finished.given)
    assert (rows.num_rows, rejects.num_rows) == (116, finished.summary.rejects)


def test_keys_and_kept_columns_equal_the_source_in_value_and_type(finished: Finished) -> None:
    """Ids that travelled as floats lose their last digits: COYO's need 45 bits and more."""
    rows = read(finished.out, "rows").select(list(TYPES[finished.form]))
    assert {field.name: str(field.type) for field in rows.schema} == TYPES[finished.form]
    for row in rows.to_pylist():
        assert tuple(row.values()) == (row["shard"], row["row"], *finished.given[row["shard"], row["row"]])
    for row in read(finished.out, "rejects").to_pylist():
        assert row["key"] == finished.given[row["shard"], row["row"]][0]


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
    assert (summary["rows"], summary["run"]["rows"]) == (116, len(finished.given))
    progress = json.loads(fs.cat_file(f"{path}/_progress.json"))
    assert (progress["rows"], progress["reasons"]) == (len(finished.given), summary["reasons"])
    assert fs.exists(f"{path}/_SUCCESS")
    assert not [name for name in objects(finished.out) if "_lease" in name or "_probe" in name]


def test_the_pinned_recipe_runs_again_and_does_nothing(finished: Finished) -> None:
    before = objects(finished.out)
    fs, path = fsspec.core.url_to_fs(finished.out)
    summary = run(JobConfig.from_dict(yaml.safe_load(fs.cat_file(f"{path}/_job.yaml"))))
    assert not summary.run
    assert (summary.rows, summary.reasons) == (116, finished.summary.reasons)
    assert objects(finished.out) == before


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(ray_session: None, tmp_path: Path) -> None:
    """Spot machines go without a word; what is committed stays, what is not is computed, nothing comes twice."""
    corpus.write_parquet(tmp_path / "in", 12, 30)
    config = small_job(tmp_path / "in", tmp_path / "out")
    (tmp_path / "job.yaml").write_text(config.to_yaml())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "jobs", "run", str(tmp_path / "job.yaml"), "--log", "json"]
        here = Path(__file__).parents[2]
        process = subprocess.Popen(command, cwd=here, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            while not list(tmp_path.glob("out/rows/*.parquet")):
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.01)
        finally:
            ended = cut_down(process)
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert ended == -signal.SIGKILL, (tmp_path / "log").read_text()
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert events[-1]["event"] not in ("stopped", "finished")
    survived = {name: when for name, when in objects(config.output.path).items() if name.endswith(".parquet")}
    count = sum(pq.read_metadata(name).num_rows for name in survived)
    assert 0 < count < 360
    assert run(config).run.get("rows", 0) == 360 - count
    assert survived.items() <= objects(config.output.path).items()
    found = addresses(read(config.output.path, "rows"), read(config.output.path, "rejects"))
    assert found == sorted(given("parquet", 12, 30))
