"""A recipe is accepted as written, or refused with a list of all mistakes."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.config import JobConfig
from jobs.errors import ConfigError
from jobs.recipe import load_recipe

PATHS = {"source": {"path": "in"}, "output": {"path": "out"}}


def message(tree: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        JobConfig.from_dict(tree)
    return caught.value.message


def saved(folder: Path, tree: Any) -> Path:
    path = folder / "job.yaml"
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("section", "key", "nearest"),
    [
        (None, "sourc", "source"),
        (None, "model", "models"),
        ("source", "kep", "keep"),
        ("decode", "max_pixel", "max_pixels"),
        ("output", "row_per_file", "rows_per_file"),
        ("compute", "batchsize", "batch_size"),
        ("storage", "endpoint", "endpoint_url"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(section: str | None, key: str, nearest: str) -> None:
    """A typo that becomes a default costs a whole run."""
    tree: dict[str, Any] = {name: dict(keys) for name, keys in PATHS.items()}
    (tree if section is None else tree.setdefault(section, {}))[key] = 1
    where = key if section is None else f"{section}.{key}"
    assert message(tree) == f"{where} is not a known key; the nearest is {nearest!r}"


def test_an_unknown_key_two_sections_deep_names_the_nearest_known_one() -> None:
    assert message({**PATHS, "models": {"vit": {"topk": 3}}}).endswith("the nearest is 'top_k'")


def test_every_mistake_is_reported_at_once() -> None:
    said = message(
        {
            "source": {"path": "", "format": "csv"},
            "models": {"vit": {"top_k": 0}, "align": {"txt": True}},
            "output": {"path": ""},
            "compute": {"batch_size": 0, "gpus": "all"},
            "storage": {"anonymous": "yes"},
        }
    )
    keys = ["source.path", "source.format", "models.vit.top_k", "models.align.txt", "output.path"]
    keys += ["compute.batch_size", "compute.gpus", "storage.anonymous"]
    assert [key for key in keys if f"{key} is " not in said] == []


def test_numbers_in_exponent_notation_are_numbers() -> None:
    """YAML reads 1e-3 as text."""
    source = {**PATHS["source"], "sample": {"fraction": "1e-3"}}
    config = JobConfig.from_dict({**PATHS, "source": source, "limits": {"decode_seconds": 5}})
    assert config.source.sample is not None
    assert (config.source.sample.fraction, config.limits.decode_seconds) == (0.001, 5.0)


def test_an_empty_recipe_names_the_required_sections() -> None:
    assert message({}) == "source is required; output is required"


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("source", "path", ""),
        ("source", "path", []),
        ("source", "path", ["a", ""]),
        ("source", "keep", "url"),
        ("source", "keep", ["url", "url"]),
        ("decode", "max_pixels", 0),
        ("decode", "exif_orientation", "yes"),
        ("output", "rows_per_file", "many"),
        ("compute", "batch_size", True),
        ("compute", "batch_size", 8.0),
        ("compute", "decode_cpus", -1),
        ("models", "vit", 5),
        ("limits", "decode_seconds", True),
        ("limits", "decode_seconds", "nan"),
        ("limits", "max_reject_fraction", "a tenth"),
        ("storage", "endpoint_url", "minio:9000"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(section: str, key: str, value: Any) -> None:
    tree = {**PATHS, section: {**PATHS.get(section, {}), key: value}}
    assert message(tree).startswith(f"{section}.{key} ")


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"source": {"path": 1}}, "source.path is 1; it must be text, or is 1; it must be a list"),
        ({"source": {"path": "in", "keep": [1]}}, "source.keep is 1; it must be text"),
        ({"storage": {"anonymous": "yes"}}, "storage.anonymous is 'yes'; it must be true or false"),
        ({"compute": {"batch_size": 1.5}}, "compute.batch_size is 1.5; it must be a whole number"),
        ({"storage": {5: 1}}, "storage.5 is not text, as keys must be"),
        ({1: {}}, "1 is not text, as keys must be"),
    ],
)
def test_a_wrong_type_is_explained_in_yamls_terms(tree: dict[Any, Any], said: str) -> None:
    assert message({**PATHS, **tree}).startswith(said)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("row", "row is a column of the output itself"),
        ("labels", "labels is a column"),
        ("_note", "_note starts with _, which is reserved"),
    ],
)
def test_a_column_of_the_output_cannot_be_kept(name: str, why: str) -> None:
    """Writing would fail after the models ran, or the source's row numbers would replace ours."""
    said = message({**PATHS, "source": {"path": "in", "keep": ["url", name]}})
    assert said.startswith(f"source.keep names '{name}': {why}")


@pytest.mark.parametrize(
    ("zero_shot", "said"),
    [
        ({}, "labels is required"),
        ({"labels": []}, "labels is empty"),
        ({"labels": ""}, "labels is empty"),
        ({"labels": ["cat", " "]}, "labels label 2 is empty"),
        ({"labels": ["cat", "dog", "cat "]}, "labels label 3, 'cat', repeats label 1"),
        ({"labels": ["cat", True]}, "or is True; it must be text"),
        ({"labels": ["cat"], "top_k": 0}, "top_k is 0; it must be greater than 0"),
        ({"labels": ["cat"], "templates": []}, 'templates is empty; ["{}"] uses the labels themselves'),
        ({"labels": ["cat"], "templates": ["a photo"]}, "templates has 'a photo', which must contain {} once"),
        ({"labels": ["cat"], "templates": ["{} {}"]}, "templates has '{} {}', which must contain {} once"),
        ({"labels": ["cat"], "templates": ["a {}", "a {}"]}, "templates names ['a {}'] twice"),
        ({"labels": ["cat"], "template": "a {}"}, "template is not a known key; the nearest is 'templates'"),
    ],
    ids=str,
)
def test_unusable_zero_shot_labels_and_templates_are_refused(zero_shot: dict[str, Any], said: str) -> None:
    """YAML reads an unquoted yes as true, and a repeated label would split its own probability."""
    assert said in message({**PATHS, "models": {"align": {"zero_shot": zero_shot}}})


def test_an_error_among_many_labels_stays_short() -> None:
    said = message({**PATHS, "models": {"align": {"zero_shot": {"labels": [*map(str, range(20_000)), None]}}}})
    assert said.endswith("or is None; it must be text")
    assert len(said) < 1000


def test_zero_shot_labels_are_stripped() -> None:
    config = JobConfig.from_dict({**PATHS, "models": {"align": {"zero_shot": {"labels": [" a cat", "a dog "]}}}})
    assert config.models.align is not None
    assert config.models.align.zero_shot is not None
    assert config.models.align.zero_shot.labels == ("a cat", "a dog")
    assert config.models.align.zero_shot.templates == ("This is a photo of {}.",)


@pytest.mark.parametrize("url", ["http://me:hunter2@minio:9000", "s3://me:hunter2@minio", "https://hunter2@host"])
def test_credentials_in_the_endpoint_are_refused_and_not_repeated(url: str) -> None:
    """Configs are printed, logged and stored beside the output."""
    said = message({**PATHS, "storage": {"endpoint_url": url}})
    assert said.startswith("storage.endpoint_url ")
    assert "hunter2" not in said


def test_a_job_without_any_model_is_refused() -> None:
    assert "at least one of vit and align" in message({**PATHS, "models": {"vit": None, "align": None}})


def test_a_config_cannot_be_changed() -> None:
    config = JobConfig.from_dict(PATHS)
    with pytest.raises(ValidationError, match="frozen"):
        config.output.path = "elsewhere"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("models.vit.top_k=3", "models.vit.top_k", 3),
        ("models.align=null", "models.align", None),
        ("source.path=[a, 's3://b/c']", "source.path", ("a", "s3://b/c")),
        ("source.keep=[]", "source.keep", ()),
        ("output.path=s3://bucket/out=1", "output.path", "s3://bucket/out=1"),
        ("compute.batch_size=auto", "compute.batch_size", "auto"),
        ("models.vit.min_prob=1", "models.vit.min_prob", 1.0),
        ("models.align.zero_shot.labels=[a, b]", "models.align.zero_shot.labels", ("a", "b")),
        ("models.align.zero_shot={labels: l.txt}", "models.align.zero_shot.labels", "l.txt"),
        ("storage.endpoint_url=http://minio:9000", "storage.endpoint_url", "http://minio:9000"),
    ],
)
def test_set_overrides_one_key(tmp_path: Path, override: str, path: str, value: Any) -> None:
    found: Any = load_recipe(saved(tmp_path, PATHS), [override])
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_the_last_override_of_a_key_wins_and_reaches_into_a_null_section(tmp_path: Path) -> None:
    recipe = saved(tmp_path, {**PATHS, "models": {"vit": None}})
    config = load_recipe(recipe, ["models.vit.top_k=3", "models.vit.top_k=4"])
    assert config.models.vit is not None
    assert config.models.vit.top_k == 4


@pytest.mark.parametrize("override", ["models.vit.top_k", "=3", "source.path=[", "source.path.more=1"])
def test_a_malformed_override_is_quoted_in_the_error(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(saved(tmp_path, PATHS), [override])
    assert f"--set {override}" in caught.value.message


def test_a_misspelt_override_names_the_nearest_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nearest is 'top_k'"):
        load_recipe(saved(tmp_path, PATHS), ["models.vit.topk=3"])


def test_a_config_survives_the_trip_through_yaml(tmp_path: Path) -> None:
    """The run stores its recipe and hands it to the cluster as YAML."""
    config = JobConfig.from_dict(
        {
            "source": {"path": ["s3://b/{0..3}.tar", "ünï/*.tar", "no", "1e3"], "keep": ["url", "null"]},
            "models": {
                "vit": {"min_prob": 0.1, "revision": "1234"},
                "align": {"zero_shot": {"labels": ["no", "1e3", "ünï: #☃", "'"], "templates": ["a {} - b", "{}"]}},
            },
            "output": {"path": "a: b #c", "rows_per_file": 100},
            "storage": {"endpoint_url": "http://minio:9000"},
        }
    )
    assert load_recipe(saved(tmp_path, config.to_yaml())) == config


def test_a_missing_recipe_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such recipe") as caught:
        load_recipe(tmp_path / "job.yaml")
    assert "coyo-jobs init" in caught.value.hint


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "a: [", "a: b: c", "\x00"])
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str) -> None:
    path = saved(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert caught.value.message.startswith(str(path))


@pytest.mark.parametrize("name", ["decode_seconds", "stalled_seconds"])
def test_a_limit_has_an_end(name: str) -> None:
    """No timer takes infinity: every image was a crash of its decoder."""
    with pytest.raises(ConfigError, match=f"limits.{name}"):
        JobConfig.from_dict({"source": {"path": "in"}, "output": {"path": "out"}, "limits": {name: float("inf")}})
