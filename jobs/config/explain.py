"""Translate pydantic's errors into messages for the author of a recipe."""

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

_MAX_REPR = 300  # characters of a value in an error


def explain(exc: ValidationError, root: type[BaseModel]) -> str:
    """One message for all mistakes, each with its key and in YAML's terms; `root` is the validated type."""
    messages_by_key: dict[str, list[str]] = {}
    for error in exc.errors():
        names = _key_path(root, error["loc"])
        unknown = error["type"] == "extra_forbidden"
        message = _suggest_key(root, names) if unknown else _translate(error["msg"], error["input"])
        messages_by_key.setdefault(".".join(names) or "recipe", []).append(message)
    return "; ".join(f"{key} {', or '.join(dict.fromkeys(messages))}" for key, messages in messages_by_key.items())


def _key_path(root: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The recipe's keys from pydantic's location, without its union members and list indexes."""
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


def _suggest_key(root: type[BaseModel], names: list[str]) -> str:
    section: type[BaseModel] | None = root
    for name in names[:-1]:
        section = _section(section.model_fields[name].annotation) if section else None
    known = list(section.model_fields) if section else []
    matches = difflib.get_close_matches(names[-1], known, n=1, cutoff=0.0) or known[:1]
    return f"is not a known key; the nearest is {matches[0]!r}"


_TRANSLATIONS = {
    "Field required": "is required",
    "valid tuple": "list",
    "valid integer": "whole number",
    "valid number": "number",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "Keys should be strings": "is not text, as keys must be",
}


def short_repr(value: Any) -> str:
    """repr(), cut to 300 characters: a value may be a long list of labels."""
    text = repr(value)
    return text if len(text) <= _MAX_REPR else f"{text[:_MAX_REPR]}..."


def _translate(text: str, value: Any) -> str:
    if text.startswith("Value error, "):
        return text.removeprefix("Value error, ")
    if "valid dictionary or instance" in text:
        return f"is {short_repr(value)}; it must be a section, a mapping of keys"
    for pydantic_text, recipe_text in _TRANSLATIONS.items():
        text = text.replace(pydantic_text, recipe_text)
    if text.startswith("is "):
        return text
    return f"is {short_repr(value)}; {text.replace('Input should be', 'it must be')}"
