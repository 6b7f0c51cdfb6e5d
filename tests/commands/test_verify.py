"""Verify believes nothing: every kind of damage to an output is found, by the check that is about it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import schema
from jobs.cli import DONE, FAILED, main
from jobs.commands.verify import verify
from jobs.demo import corpus, scenes
from jobs.output import footer
from jobs.recipe import load_recipe
from jobs.run import run
from tests.support.in_process import without_ray
from tests.support.recipes import small_job

Damage = Callable[[Path], None]
TEMPLATES = tuple(f"a small red circle {side} a large {{}} on a gray background" for side in scenes.SIDES)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """in/ with 2 shards of 40 rows, out/ with several objects of each kind."""
    folder = tmp_path_factory.mktemp("verify")
    corpus.write_parquet(folder / "in", 2, 40)
    align = {"weights": "demo", "pooled": True, "zero_shot": {"labels": scenes.LABELS, "templates": TEMPLATES}}
    with without_ray():
        run(small_job(folder / "in", folder / "out", models={"align": align}))
    return folder


@pytest.fixture
def job(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """It all, to damage, and whole again after the test: where the source is belongs to a job's identity."""
    shutil.copytree(finished, tmp_path / "whole")
    yield finished
    shutil.rmtree(finished)
    shutil.copytree(tmp_path / "whole", finished)


def failing(job: Path, sample: int = 0) -> set[str]:
    return {check.claim for check in verify(str(job / "out"), deep=True, sample=sample) if not check.ok}


def objects(job: Path, folder: str) -> list[Path]:
    """Those with rows in them."""
    return [path for path in sorted((job / "out" / folder).glob("*.parquet")) if pq.read_metadata(path).num_rows]


def change(path: Path, name: str, by: Callable[[list[object]], list[object]]) -> None:
    """Another column in an object that is otherwise as it was written."""
    table = pq.read_table(path)
    index = table.schema.get_field_index(name)
    values = pa.array(by(table.column(name).to_pylist()), table.schema.field(name).type)
    pq.write_table(table.set_column(index, table.schema.field(name), values), path)


def vector(value: float, name: str = "image_embedding") -> Damage:
    def damage(job: Path) -> None:
        path = objects(job, "rows")[0]
        dim = len(pq.read_table(path).column(name)[0])
        change(path, name, lambda all_: [np.full(dim, value, np.float16), *all_[1:]])

    return damage


def remove(job: Path) -> None:
    objects(job, "rows")[1].unlink()


def copy(job: Path) -> None:
    path = objects(job, "rows")[0]
    shutil.copy(path, path.with_name("part-again.parquet"))


def turn(name: str) -> Damage:
    def damage(job: Path) -> None:
        change(objects(job, "rows")[0], name, lambda all_: [list(reversed(probs)) for probs in all_])  # type: ignore[call-overload]

    return damage


def unknown(name: str) -> Damage:
    return lambda job: change(objects(job, "rows")[0], name, lambda all_: [[99_999] * len(ids) for ids in all_])  # type: ignore[arg-type]


def forget(name: str) -> Damage:
    return lambda job: change(objects(job, "rows")[0], name, lambda all_: [None, *all_[1:]])


def odd_reason(job: Path) -> None:
    change(objects(job, "rejects")[0], "reason", lambda all_: ["because"] * len(all_))


def similar(job: Path) -> None:
    change(objects(job, "rows")[0], "similarity", lambda all_: [7.0] * len(all_))


def move(job: Path) -> None:
    change(objects(job, "rows")[0], "row", lambda all_: [1000 + i for i in range(len(all_))])


def of_another_job(job: Path) -> None:
    path = objects(job, "rows")[0]
    table = pq.read_table(path)
    shards, about = footer.decode_provenance(table.schema.metadata[schema.PROVENANCE.encode()])
    mark = {schema.PROVENANCE.encode(): footer.encode_provenance(shards, **{**about, "job": "0" * 16})}
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, **mark}), path)


def add_shard(job: Path) -> None:
    shutil.copy(job / "in" / "part-00000.parquet", job / "in" / "part-00002.parquet")


def lose_shard(job: Path) -> None:
    (job / "in" / "part-00001.parquet").unlink()


def other_schema(job: Path) -> None:
    path = objects(job, "rows")[0]
    table = pq.read_table(path)
    pq.write_table(table.append_column("more", pa.nulls(len(table), pa.int8())), path)


def unmark(job: Path) -> None:
    (job / "out" / "_SUCCESS").unlink()


VECTORS = "embeddings are finite and of length 1"
POOLED = "pooled outputs are finite, null only without text"
LABELS = "labels are known classes with descending probabilities"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "an object is deleted": (remove, "every row of every shard is committed"),
    "a shard is added": (add_shard, "every row of every shard is committed"),
    "a shard is gone": (lose_shard, "no rows of shards that are not in the source"),
    "an object is there twice": (copy, "every row is in one object only"),
    "another job wrote an object": (of_another_job, "every object was written by this job"),
    "an object has another column": (other_schema, "one schema in each folder"),
    "rows have another address": (move, "the rows in each object are those in its footer"),
    "a vector is zero": (vector(0.0), VECTORS),
    "a vector is NaN": (vector(float("nan")), VECTORS),
    "a pooled number is infinite": (vector(float("inf"), "text_pooled"), POOLED),
    "a pooled output is gone": (forget("image_pooled"), POOLED),
    "probabilities ascend": (turn("label_probs"), LABELS),
    "a label is no class": (unknown("labels"), LABELS),
    "zero-shot probabilities ascend": (turn("zero_shot_probs"), LABELS),
    "a zero-shot label is none of the recipe's": (unknown("zero_shot_labels"), LABELS),
    "a similarity is above 1": (similar, "similarities are cosines, null only without text"),
    "a reason is not in the list": (odd_reason, "every reject has a known stage and reason"),
    "_SUCCESS is not there": (unmark, "_SUCCESS is there"),
}


def test_a_good_output_passes_every_check(job: Path) -> None:
    """A check that cries wolf is soon run no more."""
    assert failing(job, sample=6) == set()


@pytest.mark.parametrize(("damage", "claim"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found_by_the_check_that_is_about_it(job: Path, damage: Damage, claim: str) -> None:
    """Each of these is an output that people would train on."""
    damage(job)
    assert failing(job) == {claim}


@pytest.mark.parametrize(
    "name", ["image_embedding", "image_pooled", "text_embedding", "text_pooled", "labels", "zero_shot_labels"]
)
def test_results_swapped_between_rows_are_found_by_a_sample(job: Path, name: str) -> None:
    """Each is fine by itself: an off-by-one between two columns shows in no norm."""
    for path in objects(job, "rows"):
        change(path, name, lambda all_: [*all_[1:], all_[0]])
    assert failing(job) == set()
    assert failing(job, sample=6) == {"a sample equals plain transformers code in float32"}


def test_exit_codes_and_json_are_for_scripts(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(job / "out")
    assert main(["verify", out, "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)["ok"] is True
    copy(job)
    assert main(["verify", out, "--json"]) == FAILED
    told = json.loads(capsys.readouterr().out)
    assert [check["claim"] for check in told["checks"] if check["problems"]] == ["every row is in one object only"]
    assert main(["verify", out]) == FAILED
    assert "FAIL" in capsys.readouterr().out
    assert main(["verify", str(job / "in")]) == FAILED
    assert "not the output of a job" in capsys.readouterr().err
    assert load_recipe(job / "out" / "_job.yaml").output.path == out
