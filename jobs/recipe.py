"""Read a recipe file, with overrides; write a commented template with every key.

load_recipe("job.yaml")                             YAML or JSON, local or s3://
load_recipe(path, ["models.vit.top_k=3"])           with overrides, as of `coyo-jobs run --set`
recipe_template("s3://bucket/coyo", "s3://bucket/out")
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from jobs.config import JobConfig
from jobs.errors import ConfigError
from jobs.storage import Storage

_WIDTH = 48  # column where comments start


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> JobConfig:
    """Read a recipe, local or s3://. An override is `section.key=value` with a YAML value; a later one wins.

    Raises ConfigError if the file is missing or not YAML, and for unknown keys and wrong values, listing all of them.
    """
    try:
        tree = yaml.safe_load(_read_text(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe", "coyo-jobs init INPUT OUTPUT > job.yaml writes one") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as exc:
        raise ConfigError(f"{path}: cannot be read as YAML: {exc}") from exc
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a recipe must be a mapping with source and output, not a {type(tree).__name__}")
    for override in overrides:
        _apply_override(tree, override)
    try:
        return JobConfig.from_dict(tree)
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc.message}", exc.hint) from None


def recipe_template(source: str, output: str) -> str:
    """A YAML recipe with every key, its default, and its description as a comment."""
    config = JobConfig.from_dict({"source": {"path": source}, "output": {"path": output}})
    lines = [
        "# A coyo-jobs recipe. Run it with: coyo-jobs run job.yaml",
        "# Only the two paths are required; any other line can be deleted.",
        "",
    ]
    for name in JobConfig.model_fields:
        section = getattr(config, name)
        lines += [f"{name}:{_comment(f'{name}:', section.__doc__ or '')}", *_section_lines(section, "  "), ""]
    return "\n".join(lines[:-1]) + "\n"


def _read_text(path: str | Path) -> str:
    if "://" not in str(path):
        return Path(path).read_text(encoding="utf-8")
    return Storage().read(str(path)).decode("utf-8")


def _apply_override(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override}: not of the form section.key=value")
    try:
        value = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as exc:
        raise ConfigError(f"--set {override}: the value is not YAML: {exc}") from exc
    *sections, key = path.split(".")
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        tree = tree[section]
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override}: {section} is not a section")
    tree[key] = value


def _section_lines(section: BaseModel, indent: str) -> list[str]:
    lines: list[str] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            start = f"{indent}{name}:"
            note = f"{(value.__doc__ or '').strip()} {name}: null leaves it out."
            lines += [start + _comment(start, note), *_section_lines(value, indent + "  ")]
        else:
            start = f"{indent}{name}: {_inline_yaml(value)}"
            lines.append(start + _comment(start, field.description or ""))
    return lines


def _comment(start: str, text: str) -> str:
    return " " * max(2, _WIDTH - len(start)) + f"# {text.strip()}"


def _inline_yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")
