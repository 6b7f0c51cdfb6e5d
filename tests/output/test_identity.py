"""An output belongs to one job; the same job may continue in it, another job is refused."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import s3fs
import yaml

from jobs.commands.status import status
from jobs.config import JobConfig
from jobs.driver.progress import publish, waiting_progress
from jobs.errors import OutputError
from jobs.models import Spec
from jobs.models.describe import describe_models
from jobs.output import identity
from jobs.recipe import load_recipe
from jobs.sources.discover import discover
from jobs.storage import Storage
from tests.support.recipes import demo_job

STORAGE = Storage()


@pytest.fixture(scope="module")
def specs() -> tuple[Spec, ...]:
    return describe_models(demo_job("in", "out"), STORAGE)


def pin(config: JobConfig, specs: tuple[Spec, ...]) -> JobConfig:
    """As a run over Parquet shards does."""
    decided = {"format": "parquet", "path": STORAGE.pin(str(config.source.path))}
    return identity.pin_config(config, config.source.model_copy(update=decided), specs)


def changed(config: JobConfig, path: str, value: Any) -> JobConfig:
    tree = config.model_dump()
    *sections, key = path.split(".")
    section = tree
    for name in sections:
        section = section[name]
    section[key] = value
    return JobConfig.from_dict(tree)


@pytest.fixture
def pinned(specs: tuple[Spec, ...], tmp_path: Path) -> JobConfig:
    """A job that has claimed its output."""
    config = pin(demo_job("/data/coyo", tmp_path / "out"), specs)
    identity.claim_output(STORAGE, config)
    return config


def test_the_pinned_recipe_is_a_recipe_with_nothing_left_open(pinned: JobConfig, specs: tuple[Spec, ...]) -> None:
    """A year later `auto` and `null` may mean something else."""
    loaded = load_recipe(f"{pinned.output.path}/_job.yaml")
    assert loaded == pinned
    assert loaded.source.format == "parquet"
    assert loaded.models.vit is not None
    assert loaded.models.align is not None
    assert str(loaded.models.vit.revision).startswith("sha256:")
    assert loaded.models.vit.revision != loaded.models.align.revision
    again = pin(loaded, describe_models(loaded, STORAGE))
    assert identity.fingerprint(again) == identity.fingerprint(pinned)
    identity.claim_output(STORAGE, again)


@pytest.mark.parametrize(
    ("path", "value", "shown"),
    [
        ("models.vit.top_k", 3, "models.vit.top_k was 5, now 3"),
        ("models.vit.min_prob", 0.5, "models.vit.min_prob was 0.0, now 0.5"),
        ("models.align", None, "models.align was"),
        ("models.align.text", False, "models.align.text was True, now False"),
        ("source.path", "/data/laion", "source.path was '/data/coyo', now '/data/laion'"),
        ("source.keep", (), r"source.keep was \['url', 'width', 'height'\], now \[\]"),
        ("decode.alpha", "drop", "decode.alpha was 'white', now 'drop'"),
        ("output.embedding_dtype", "float32", "output.embedding_dtype was 'float16', now 'float32'"),
    ],
)
def test_another_job_is_refused_with_the_difference(pinned: JobConfig, path: str, value: Any, shown: str) -> None:
    """Half of an output with five labels a row and half with three is worth nothing."""
    other = changed(pinned, path, value)
    assert identity.fingerprint(other) != identity.fingerprint(pinned)
    with pytest.raises(OutputError, match=f"belongs to a different job: .*{shown}") as caught:
        identity.claim_output(STORAGE, other)
    assert "output folder of its own" in caught.value.hint


def test_other_weights_under_the_same_name_are_refused(pinned: JobConfig, specs: tuple[Spec, ...]) -> None:
    """A fine-tuned checkpoint that was saved over the old one."""
    vit, align = specs
    newer = (replace(vit, weights=replace(vit.weights, revision="sha256:new")), align)
    unpinned = changed(pinned, "models.vit.revision", None)
    with pytest.raises(OutputError, match=r"models\.vit\.revision was 'sha256:.*', now 'sha256:new'"):
        identity.claim_output(STORAGE, pin(unpinned, newer))


def test_every_difference_is_shown_at_once(pinned: JobConfig) -> None:
    other = changed(changed(pinned, "models.vit.top_k", 3), "decode.alpha", "drop")
    with pytest.raises(OutputError, match=r"decode\.alpha was .*; models\.vit\.top_k was"):
        identity.claim_output(STORAGE, other)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("compute.device", "cpu"),
        ("compute.batch_size", 7),
        ("compute.precision", "bfloat16"),
        ("storage.endpoint_url", "http://minio:9000"),
        ("output.rows_per_file", 17),
    ],
)
def test_where_and_how_fast_a_job_runs_may_change(pinned: JobConfig, path: str, value: Any) -> None:
    """A run that started on a laptop goes on where the GPUs are."""
    other = changed(pinned, path, value)
    identity.claim_output(STORAGE, other)
    assert identity.fingerprint(other) == identity.fingerprint(pinned)


def test_an_output_may_be_moved(pinned: JobConfig, tmp_path: Path) -> None:
    (tmp_path / "out").rename(tmp_path / "moved")
    identity.claim_output(STORAGE, changed(pinned, "output.path", str(tmp_path / "moved")))


def test_an_output_is_found_by_its_recipe_in_a_store_that_nothing_else_names(
    pinned: JobConfig, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem(endpoint_url=s3).mkdir("by-its-recipe")
    there = changed(changed(pinned, "output.path", "s3://by-its-recipe/out"), "storage.endpoint_url", s3)
    recipe = tmp_path / "job.yaml"
    recipe.write_text(there.to_yaml())
    storage = Storage(there.storage)
    identity.claim_output(storage, changed(there, "storage.endpoint_url", None))  # as it was reached in an earlier run
    assert identity.load_job(str(recipe)) == (storage, there)
    publish(storage, there.output.path, "", waiting_progress("first", "GPUs", 1.0))
    said, well = status(str(recipe), as_json=False)
    assert (well, said.splitlines()[0]) == (True, "s3://by-its-recipe/out: not finished")


def test_a_folder_with_somebodys_rows_is_not_taken_over(specs: tuple[Spec, ...], tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "theirs.parquet").write_bytes(b"PAR1")
    with pytest.raises(OutputError, match=r"has rows/ but no _job\.yaml"):
        identity.claim_output(STORAGE, pin(demo_job("/data/coyo", tmp_path), specs))
    assert not (tmp_path / "_job.yaml").exists()


@pytest.mark.parametrize("text", ["source: [", "a: 1", "- a list", "", "source: {path: x, from_the_future: 1}"])
def test_a_job_file_that_cannot_be_understood_is_refused(pinned: JobConfig, text: str) -> None:
    path = Path(pinned.output.path) / "_job.yaml"
    path.write_text(text)
    with pytest.raises(OutputError, match=r"_job\.yaml: cannot be read by this version"):
        identity.claim_output(STORAGE, pinned)
    assert path.read_text() == text


def test_claiming_twice_changes_nothing(pinned: JobConfig) -> None:
    path = Path(pinned.output.path) / "_job.yaml"
    before = path.stat().st_mtime_ns
    identity.claim_output(STORAGE, pinned)
    assert path.stat().st_mtime_ns == before
    assert yaml.safe_load(path.read_text())["models"]["vit"]["top_k"] == 5


def test_the_pinned_recipe_finds_its_source_from_anywhere(
    scenes_parquet: Path, specs: tuple[Spec, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`coyo-jobs run out/_job.yaml` and `coyo-jobs report out` from another directory found nothing."""
    monkeypatch.chdir(scenes_parquet.parent)
    config = pin(demo_job(scenes_parquet.name, tmp_path / "out"), specs)
    monkeypatch.chdir(tmp_path)
    assert len(discover(STORAGE, config.source).shards) == 3


def test_two_folders_with_one_relative_name_are_two_jobs(
    specs: tuple[Spec, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second corpus was taken for the first one, and reported as already complete."""
    prints = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        prints.add(identity.fingerprint(pin(demo_job("in", tmp_path / "out"), specs)))
    assert len(prints) == 2


LABELS = tuple(f"thing {i}" for i in range(3000))


def with_labels(source: object, output: Path, labels: object) -> JobConfig:
    return demo_job(str(source), output, models={"vit": None, "align": {"weights": "demo", "zero_shot": labels}})


def zero_shot(config: JobConfig) -> JobConfig:
    return pin(config, describe_models(config, STORAGE))


def test_labels_from_a_file_are_pinned_themselves(tmp_path: Path) -> None:
    """A year later the file is gone, or another; the ids in the output still mean the same."""
    file = tmp_path / "labels.txt"
    file.write_text("\n".join(LABELS))
    config = with_labels("/data/coyo", tmp_path / "out", {"labels": str(file)})
    identity.claim_output(STORAGE, zero_shot(config))
    identity.claim_output(STORAGE, zero_shot(config))  # the same file: the same job
    file.unlink()
    loaded = load_recipe(tmp_path / "out" / "_job.yaml")
    assert loaded.models.align is not None
    assert loaded.models.align.zero_shot is not None
    assert loaded.models.align.zero_shot.labels == LABELS
    assert zero_shot(loaded) == loaded


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (
            lambda all_: [*all_[:7], "a cat", *all_[8:]],
            "had 3000 entries, now 3000; number 8 was 'thing 7', now 'a cat'",
        ),
        (lambda all_: all_[:-1], "had 3000 entries, now 2999; number 3000 was 'thing 2999', now None"),
        (lambda all_: [*all_, "a cat"], "had 3000 entries, now 3001; number 3001 was None, now 'a cat'"),
        (
            lambda all_: [all_[1], all_[0], *all_[2:]],
            "had 3000 entries, now 3000; number 1 was 'thing 0', now 'thing 1'",
        ),
    ],
    ids=["another label", "one less", "one more", "another order"],
)
def test_another_list_of_labels_is_another_job(
    change: Callable[[Sequence[str]], list[str]], shown: str, tmp_path: Path
) -> None:
    """And the error names one label, not three thousand."""
    file = tmp_path / "labels.txt"
    file.write_text("\n".join(LABELS))
    config = with_labels("/data/coyo", tmp_path / "out", {"labels": str(file)})
    identity.claim_output(STORAGE, zero_shot(config))
    file.write_text("\n".join(change(LABELS)))
    with pytest.raises(OutputError, match=f"zero_shot.labels {shown}") as caught:
        identity.claim_output(STORAGE, zero_shot(config))
    assert len(caught.value.message) < 400
