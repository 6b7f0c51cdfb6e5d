"""The commented recipe that `coyo-jobs init` writes; every comment is the key's own description in sections/."""

from typing import Any

import yaml
from pydantic import BaseModel

from jobs.config import JobConfig

_WIDTH = 48  # column where comments start


def recipe(source: str, output: str) -> str:
    """YAML that JobConfig.load reads, with every key, its default and what it means."""
    config = JobConfig.of({"source": {"path": source}, "output": {"path": output}})
    lines = [
        "# A coyo-jobs recipe. Run it with: coyo-jobs run job.yaml",
        "# Only the two paths have no default; any other line can go.",
        "",
    ]
    for name in JobConfig.model_fields:
        section = getattr(config, name)
        lines += [f"{name}:{_comment(f'{name}:', section.__doc__ or '')}", *_section(section, "  "), ""]
    return "\n".join(lines[:-1]) + "\n"


def _section(section: BaseModel, indent: str) -> list[str]:
    lines: list[str] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            start = f"{indent}{name}:"
            note = f"{(value.__doc__ or '').strip()} {name}: null runs without it."
            lines += [start + _comment(start, note), *_section(value, indent + "  ")]
        else:
            start = f"{indent}{name}: {_yaml(value)}"
            lines.append(start + _comment(start, field.description or ""))
    return lines


def _comment(start: str, text: str) -> str:
    return " " * max(2, _WIDTH - len(start)) + f"# {text.strip()}"


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")
