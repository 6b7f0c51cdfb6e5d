"""Messages for a recipe that pydantic refuses, in the words of whoever wrote the recipe."""

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

_SHOWN = 300  # characters of a value in an error


def explain(exc: ValidationError, root: type[BaseModel]) -> str:
    """Describe every mistake by its key in the recipe, in YAML's terms; `root` is the validated type."""
    seen: dict[str, list[str]] = {}
    for error in exc.errors():
        names = _key_path(root, error["loc"])
        message = (
            _nearest(root, names) if error["type"] == "extra_forbidden" else _plainly(error["msg"], error["input"])
        )
        seen.setdefault(".".join(names) or "recipe", []).append(message)
    return "; ".join(f"{key} {', or '.join(dict.fromkeys(messages))}" for key, messages in seen.items())


def _key_path(root: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The recipe's keys in pydantic's location, without the union members and list indexes it adds."""
    names: list[str] = []
    section: type[BaseModel] | None = root
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


def _nearest(root: type[BaseModel], names: list[str]) -> str:
    section: type[BaseModel] | None = root
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
