"""Who gets which part of the cluster, and which columns come out of which models."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.config import ComputeConfig, JobConfig, OutputConfig
from jobs.errors import ClusterError, ConfigError, SourceError
from jobs.pipeline import Resources, decide
from jobs.run import run
from tests.conftest import demo_job

OUTPUT = OutputConfig(path="out")


def decided(cpus: int, there: int, **compute: object) -> Resources:
    """On a cluster with so many cores and, where there are any, GPUs."""
    cluster = {"CPU": float(cpus), "GPU": float(there), "memory": 1e9} if there else {"CPU": float(cpus)}
    return decide(ComputeConfig.model_validate(compute), OUTPUT, cluster)


def test_without_gpus_the_models_get_cores_and_small_batches() -> None:
    got = decided(16, 0)
    assert (got.device, got.actors, got.batch_size, got.rows_per_file) == ("cpu", 1, 32, 1024)
    assert (got.actor_cpus, got.calls, got.threads) == (8, 4, 4)
    assert "annotate on 16 CPUs" in str(got)


def test_on_few_cores_each_runs_a_call_of_its_own() -> None:
    """Two threads of one call wait for each other whenever a decoder takes a core: a quarter slower, measured."""
    assert [(got.actors, got.calls, got.threads) for got in map(decided, (2, 3, 4, 8), [0] * 4)] == [
        (1, 2, 1), (1, 3, 1), (1, 4, 1), (1, 4, 2),
    ]  # fmt: skip


def test_many_cores_get_several_actors() -> None:
    """One torch process does not scale over 64 cores."""
    got = decided(64, 0)
    assert got.actors == 4
    assert (got.calls, got.threads) == (4, 4)
    assert "annotate on 64 CPUs" in str(got)


def test_every_gpu_gets_one_actor_and_the_cores_decode() -> None:
    got = decided(64, 8)
    assert (got.device, got.actors, got.batch_size, got.rows_per_file) == ("cuda", 8, 128, 8192)
    assert got.decode_cpus == 59
    assert str(got) == "annotate on 8 GPUs, batches of 128; decode on 59 CPUs"


def test_one_gpu_is_one_gpu() -> None:
    assert str(decided(4, 1)).startswith("annotate on 1 GPU, ")


def test_fewer_gpus_than_there_are_can_be_asked_for() -> None:
    assert decided(64, 8, gpus=3).actors == 3


def test_gpus_are_left_alone_when_the_recipe_says_cpu() -> None:
    assert decided(16, 8, device="cpu").device == "cpu"


def test_cuda_that_is_not_there_is_an_error() -> None:
    """A run on CPU that was meant for GPUs would take a month, quietly."""
    with pytest.raises(ClusterError, match="sees no GPU") as caught:
        decided(16, 0, device="cuda")
    assert "auto" in caught.value.hint


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_more_gpus_than_there_are_is_an_error(device: str) -> None:
    with pytest.raises(ClusterError, match=r"compute\.gpus is 4, but Ray sees 2"):
        decided(16, 2, device=device, gpus=4)


def test_gpus_that_were_asked_for_are_not_replaced_by_cpu() -> None:
    with pytest.raises(ClusterError, match=r"compute\.gpus is 1, but Ray sees 0"):
        decided(16, 0, gpus=1)


def test_decode_cpus_are_clipped_to_what_the_actors_leave() -> None:
    assert decided(16, 1, decode_cpus=4).decode_cpus == 4
    assert decided(16, 1, decode_cpus=500).decode_cpus == decided(16, 1).decode_cpus == 15


def test_what_the_recipe_says_is_taken() -> None:
    got = decide(
        ComputeConfig(batch_size=7), OutputConfig(path="out", rows_per_file=9), {"CPU": 8.0, "object_store_memory": 1.0}
    )
    assert (got.batch_size, got.rows_per_file) == (7, 9)


@pytest.mark.parametrize(
    ("cpus", "gpus"),
    [
        (2, 0), (3, 0), (4, 0), (16, 0), (17, 0), (64, 0), (192, 0), (2, 1), (4, 4), (64, 8),
        pytest.param(1, 0), pytest.param(1, 1), pytest.param(4, 8),
    ],
)  # fmt: skip
def test_actors_leave_a_core_for_decode_and_a_sliver_for_writes(cpus: int, gpus: int) -> None:
    """Actors that hold every core leave the stages before and after them waiting for ever, without an error."""
    try:
        got = decided(cpus, gpus)
    except ClusterError:
        return  # said so: fine too
    assert got.decode_cpus >= 1
    assert got.actors * got.actor_cpus + got.decode_cpus + 0.25 <= cpus


@pytest.mark.parametrize(
    ("models", "results"),
    [
        ({"align": None}, ["labels", "label_probs"]),
        ({"vit": None}, ["image_embedding", "text_embedding", "similarity"]),
        ({"align": {"weights": "demo", "text": False}}, ["labels", "label_probs", "image_embedding"]),
    ],
    ids=["only vit", "only align", "no text"],
)
def test_a_model_that_is_left_out_leaves_no_columns(
    ray_session: None, scenes_parquet: Path, tmp_path: Path, models: dict[str, Any], results: list[str]
) -> None:
    summary = run(demo_job(scenes_parquet / "part-00001.parquet", tmp_path / "out", models=models))
    assert (summary.rows + summary.rejects, summary.rejects) == (40, 1)
    rows = pq.read_table(tmp_path / "out" / "rows")
    assert rows.column_names == ["shard", "row", "key", "url", "width", "height", *results]
    assert (tmp_path / "out" / "_labels.json").exists() == ("labels" in results)


def keeping(home: Path, table: pa.Table, *columns: str) -> JobConfig:
    """A job over one shard with this table."""
    (home / "in").mkdir()
    pq.write_table(table, home / "in" / "a.parquet")
    config = demo_job(home / "in", home / "out").model_dump()
    return JobConfig.of(config | {"source": {"path": str(home / "in"), "keep": list(columns)}})


def test_a_source_without_one_good_row_still_has_both_folders(ray_session: None, tmp_path: Path) -> None:
    """Readers that open rows/*.parquet fail where there is none."""
    nulls = pa.table({"image": pa.nulls(3, pa.binary()), "text": ["a", "b", None]})
    config = keeping(tmp_path, nulls)
    pq.write_table(nulls.slice(0, 0), tmp_path / "in" / "empty.parquet")
    summary = run(config)
    assert (summary.shards, summary.rows, summary.reasons) == (2, 0, {"no_image": 3})
    rows = pq.read_table(tmp_path / "out" / "rows")
    assert (rows.num_rows, rows.column_names[:4]) == (0, ["shard", "row", "key", "labels"])


def test_both_folders_are_there_after_a_kill_before_the_last_step(ray_session: None, tmp_path: Path) -> None:
    """A run that is stopped after its last row leaves no object in one folder, and the next has no row to compute."""
    config = keeping(tmp_path, pa.table({"image": pa.nulls(3, pa.binary())}))
    run(config)
    for name in [*(tmp_path / "out" / "rows").iterdir(), tmp_path / "out" / "_SUCCESS"]:
        name.unlink()
    run(config)
    assert pq.read_table(tmp_path / "out" / "rows").column_names[:3] == ["shard", "row", "key"]


@pytest.mark.parametrize("name", ["labels", "_note"])
def test_a_kept_column_that_cannot_be_kept_is_refused_at_once(ray_session: None, tmp_path: Path, name: str) -> None:
    """A corpus that was labelled before has `labels`; one with an underscore came out without it, and no word."""
    with pytest.raises((ConfigError, SourceError), match=name):
        run(keeping(tmp_path, pa.table({"image": pa.nulls(3, pa.binary()), name: ["a", "b", "c"]}), name))
