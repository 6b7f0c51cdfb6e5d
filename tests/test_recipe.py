"""The recipe that `coyo-jobs init` writes is complete, explained, and means the defaults."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from jobs.config import JobConfig
from jobs.recipe import load_recipe, recipe_template


def keys(section: BaseModel) -> Iterator[str]:
    for name in type(section).model_fields:
        yield name
        if isinstance(value := getattr(section, name), BaseModel):
            yield from keys(value)


def defaults(source: str, output: str) -> JobConfig:
    return JobConfig.from_dict({"source": {"path": source}, "output": {"path": output}})


@pytest.mark.parametrize(
    "path",
    [
        "in",
        "s3://bucket/{00000..00127}.tar",
        "*.tar",
        "a: b",
        "a # b",
        "ünï cödé",
        "it's",
        '"q"',
        "null",
        "1",
        "- x",
        "a b " * 1000,
    ],
    ids=lambda path: path[:40],
)
def test_a_recipe_loads_to_the_defaults(tmp_path: Path, path: str) -> None:
    """A path that YAML reads as something else would start another job."""
    (tmp_path / "job.yaml").write_text(recipe_template(path, path + "/out"), encoding="utf-8")
    assert load_recipe(tmp_path / "job.yaml") == defaults(path, path + "/out")


def test_a_recipe_has_every_key_once_with_a_comment() -> None:
    lines = [line for line in recipe_template("in", "out").splitlines() if line and not line.startswith("#")]
    assert [line.strip().partition(":")[0] for line in lines] == list(keys(defaults("in", "out")))
    assert [line for line in lines if not line.partition("  # ")[2].strip()] == []


def test_only_the_two_paths_are_needed(tmp_path: Path) -> None:
    """The recipe's second line says so."""
    wanted = ("source:", "  path:", "output:")
    lines = [line for line in recipe_template("in", "out").splitlines() if line.startswith(wanted)]
    (tmp_path / "job.yaml").write_text("\n".join(lines), encoding="utf-8")
    assert load_recipe(tmp_path / "job.yaml") == defaults("in", "out")
