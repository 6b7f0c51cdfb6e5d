"""The recipe: one frozen, typed tree. Unknown keys are errors that name the nearest known key.

    JobConfig.load("job.yaml")                          from YAML (or JSON: it is YAML)
    JobConfig.load(path, ["models.vit.top_k=3"])        with overrides
    JobConfig.of({"source": {"path": ...}, ...})        from a mapping

No secret lives here: credentials come from the usual AWS_* variables and profiles.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ValidationError

from jobs.errors import ConfigError
from jobs.sections.base import Section
from jobs.sections.models import AlignConfig, ModelsConfig, VitConfig, ZeroShotConfig
from jobs.sections.run import ComputeConfig, LimitsConfig, OutputConfig, PoolConfig, StorageConfig
from jobs.sections.source import DatasetConfig, DecodeConfig, FetchConfig, SampleConfig, SourceConfig

__all__ = [
    "AlignConfig",
    "ComputeConfig",
    "DatasetConfig",
    "DecodeConfig",
    "FetchConfig",
    "JobConfig",
    "LimitsConfig",
    "ModelsConfig",
    "OutputConfig",
    "PoolConfig",
    "SampleConfig",
    "SourceConfig",
    "StorageConfig",
    "VitConfig",
    "ZeroShotConfig",
]

_SHOWN = 300  # letters of a value in an error
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast: labels may be tens of thousands


class JobConfig(Section):
    """One job."""

    source: SourceConfig
    fetch: FetchConfig = FetchConfig()
    decode: DecodeConfig = DecodeConfig()
    models: ModelsConfig = ModelsConfig()
    output: OutputConfig
    compute: ComputeConfig = ComputeConfig()
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = StorageConfig()

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> Self:
        """From a mapping; raises ConfigError with every mistake in it."""
        try:
            return cls.model_validate(tree)
        except ValidationError as exc:
            raise ConfigError(_explain(exc)) from None

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Self:
        """From a YAML or JSON file, local or s3://, with `section.key=value` overrides; the value is YAML."""
        try:
            tree = yaml.safe_load(_text(path))
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such recipe", "coyo-jobs init INPUT OUTPUT > job.yaml writes one") from None
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as exc:
            raise ConfigError(f"{path}: cannot be read as YAML: {exc}") from exc
        if not isinstance(tree, dict):
            raise ConfigError(f"{path}: a recipe is a mapping with source and output, this is {type(tree).__name__}")
        for override in overrides:
            _set(tree, override)
        try:
            return cls.of(tree)
        except ConfigError as exc:
            raise ConfigError(f"{path}: {exc.message}", exc.hint) from None

    def to_yaml(self) -> str:
        return yaml.dump(self.model_dump(mode="json"), Dumper=_DUMPER, sort_keys=False, allow_unicode=True)


def _text(path: str | Path) -> str:
    if "://" not in str(path):
        return Path(path).read_text(encoding="utf-8")
    from jobs.storage import Storage  # which takes its settings from this module

    return Storage().read(str(path)).decode("utf-8")


def _set(tree: dict[str, Any], override: str) -> None:
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


def _explain(exc: ValidationError) -> str:
    seen: dict[str, list[str]] = {}
    for error in exc.errors():
        names = _key_path(error["loc"])
        message = _nearest(names) if error["type"] == "extra_forbidden" else _plainly(error["msg"], error["input"])
        seen.setdefault(".".join(names) or "recipe", []).append(message)
    return "; ".join(f"{key} {', or '.join(dict.fromkeys(messages))}" for key, messages in seen.items())


def _key_path(loc: tuple[int | str, ...]) -> list[str]:
    """The recipe's keys in pydantic's location, without the union members and list indexes it adds."""
    names: list[str] = []
    section: type[BaseModel] | None = JobConfig
    for part in map(str, loc):
        if section is None:
            break
        names.append(part)
        field = section.model_fields.get(part)
        section = _section(field.annotation) if field else None
    return names


def _section(annotation: Any) -> type[BaseModel] | None:
    members = getattr(annotation, "__args__", (annotation,))
    return next((member for member in members if isinstance(member, type) and issubclass(member, BaseModel)), None)


def _nearest(names: list[str]) -> str:
    section: type[BaseModel] | None = JobConfig
    for name in names[:-1]:
        section = _section(section.model_fields[name].annotation) if section else None
    known = list(section.model_fields) if section else []
    near = difflib.get_close_matches(names[-1], known, n=1, cutoff=0.0) or known[:1]
    return f"is not a known key; the nearest is {near[0]!r}"


_PLAIN = {
    "Field required": "is needed and has no default",
    "valid tuple": "list",
    "valid integer": "whole number",
    "valid number": "number",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "Keys should be strings": "is a key, and keys must be text",
}


def shown(value: Any) -> str:
    """As it is written in Python; a long list of labels, say, is cut."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _plainly(text: str, given: Any) -> str:
    if text.startswith("Value error, "):
        return text.removeprefix("Value error, ")
    if "valid dictionary or instance" in text:
        return f"is {shown(given)}; it must be a section with keys of its own"
    for theirs, ours in _PLAIN.items():
        text = text.replace(theirs, ours)
    return text if text.startswith("is ") else f"is {shown(given)}; {text.replace('Input should be', 'it must be')}"
