"""What the README says is what the program does."""

import re
import shlex
from pathlib import Path

import pytest

from jobs import cli
from jobs.config import JobConfig
from jobs.errors import Reason

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """Every coyo-jobs command of the README: in its code blocks, and in the running text."""
    blocks = re.findall(r"^(?:\.venv/bin/)?(coyo-jobs .*)$", README, re.MULTILINE)
    inline = re.findall(r"`(coyo-jobs [^`]*)`", README)
    return [command.split("#")[0].split(">")[0].strip() for command in [*blocks, *inline]]


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_readme_parses(command: str) -> None:
    words = shlex.split(command)[1:]
    if words in (["init"], ["run"], ["retry"]):  # a mention of the command's name
        return
    cli._parser().parse_args(words)


def test_the_readme_has_commands() -> None:
    assert len(commands()) >= 10


def test_every_recipe_key_is_in_the_readme() -> None:
    for section, field in JobConfig.model_fields.items():
        kind = field.annotation
        assert kind is not None
        row = "\n".join(line for line in README.splitlines() if line.startswith(f"| `{section}"))
        keys = re.findall(r"`(\w+)`", row)
        names = list(kind.model_fields)
        if section == "models":
            names = [name for model in ("VitConfig", "AlignConfig", "ZeroShotConfig") for name in _keys(model)]
        assert set(names) <= set(keys), section


def _keys(model: str) -> list[str]:
    from jobs import config

    return list(getattr(config, model).model_fields)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reject_reason_is_in_the_readme(reason: Reason) -> None:
    assert f"| `{reason}` |" in README


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_every_make_target_of_the_readme_is_there(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
