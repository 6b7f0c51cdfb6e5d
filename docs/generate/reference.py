"""The reference, made from the code: what `<!-- generated: NAME -->` in a page becomes."""

import argparse
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Union

import pyarrow as pa
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs.generate.architecture import contracts, rooms
from docs.generate.imports import ROOT
from jobs import cli, log, schema
from jobs.config import JobConfig
from jobs.driver import prometheus
from jobs.errors import TRANSIENT_REASONS, Reason
from jobs.recipe import recipe_template

_KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}
_EXAMPLE = ("s3://bucket/coyo", "s3://bucket/out")


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """Markdown; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def recipe() -> str:
    """Every section of the recipe with its keys: one heading and one table each."""
    return "\n\n".join(_section(name, model) for name, model in sections())


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Each section, and those inside it after it."""

    def walk(name: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
        yield name, model
        for key, field in model.model_fields.items():
            for inner in (each for each in _members(field.annotation) if _is_section(each)):
                yield from walk(f"{name}.{key}".lstrip("."), inner)

    for name, model in walk("", JobConfig):
        if name:
            yield name, model


def _section(name: str, model: type[BaseModel]) -> str:
    rows = [
        [f"`{key}`", _kind(field.annotation), _default(field), field.description or ""]
        for key, field in model.model_fields.items()
        if not _is_section(field.annotation)  # it has a heading of its own, which says it all
    ]
    about = (inspect.getdoc(model) or "").replace("\n", " ")
    shown = table(["key", "value", "default", "meaning"], iter(rows)) if rows else ""
    return f"### `{name}`\n\n{about}\n\n{shown}".rstrip()


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a type, without what pydantic adds to it."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(each for member in typing.get_args(annotation) for each in _members(member))
    return (annotation,)


def _kind(annotation: Any) -> str:
    """A type in words, such as: whole number, or `auto`."""
    words: list[str] = []
    for each in _members(annotation):
        origin = typing.get_origin(each)
        if origin is Literal:
            words += [f"`{value}`" for value in typing.get_args(each)]
        elif origin is tuple:
            words.append("list")
        elif _is_section(each):
            words.append("section")
        else:
            words.append(_KINDS.get(each, "mapping"))
    return ", ".join(dict.fromkeys(words))


def _default(field: FieldInfo) -> str:
    return "**needed**" if field.is_required() else f"`{_yaml(field.default)}`"


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def init() -> str:
    """The recipe that `coyo-jobs init` writes."""
    return f"```yaml\n{recipe_template(*_EXAMPLE)}```"


def commands() -> str:
    """Every command: what it does, how it is called, its arguments."""
    return "\n\n".join(_command(name, parser) for name, parser in parsers().items())


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, in the order of `--help`."""
    actions = cli._parser()._actions
    choices = next(each.choices for each in actions if isinstance(each, argparse._SubParsersAction))
    return dict(choices)


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    parser.formatter_class = partial(argparse.HelpFormatter, width=100)
    usage = parser.format_usage().rstrip().replace("\n       ", "\n").removeprefix("usage: ")
    rows = ([f"`{_call(each)}`", each.help or ""] for each in parser._actions if each.dest != "help")
    arguments = table(["argument", "meaning"], rows)
    return f"### `{name}`\n\n{parser.description}\n\n```text\n{usage}\n```\n\n{arguments}"


def _call(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    takes = "" if action.nargs == 0 else f" {action.metavar or _choices(action) or action.dest.upper()}"
    return f"{', '.join(action.option_strings)}{takes}"


def _choices(action: argparse.Action) -> str:
    return "{" + ",".join(action.choices) + "}" if action.choices else ""


def columns(folder: str) -> str:
    """The columns of one folder of an output, with their types."""
    half = pa.float16()
    vectors = [schema.embedding(name, 640, half) for name in (schema.IMAGE_EMBEDDING, schema.TEXT_EMBEDDING)]
    pooled = [schema.embedding(name, 768, half) for name in (schema.IMAGE_POOLED, schema.TEXT_POOLED)]
    results = [*schema.labels(), *vectors, schema.similarity(), *schema.zero_shot(), *pooled]
    annotated = schema.annotated(schema.raw(pa.int64(), []), results)
    fields = list((schema.rows if folder == "rows" else schema.rejects)(annotated))
    return table(
        ["column", "type", "meaning"],
        ([f"`{field.name}`", _type(field), schema.MEANING[field.name]] for field in fields),
    )


def _type(field: pa.Field) -> str:
    if field.name == schema.KEY:
        return "as in the source"
    if pa.types.is_fixed_size_list(field.type):
        return f"`fixed_size_list<{_plain(field.type.value_type)}, dim>`"
    return f"`list<{_plain(field.type.value_type)}>`" if pa.types.is_list(field.type) else f"`{_plain(field.type)}`"


def _plain(kind: pa.DataType) -> str:
    """numpy's name for a float, which is also Parquet's: Arrow calls them halffloat and float."""
    return {"halffloat": "float16", "float": "float32"}.get(str(kind), str(kind))


def reasons() -> str:
    """The closed list of reject reasons; the comment beside each in the code says what it means."""
    meaning = dict(re.findall(r'^    \w+ = "(\w+)"  # (.*)$', inspect.getsource(Reason), re.MULTILINE))
    again = {reason.value for reason in TRANSIENT_REASONS}
    return table(
        ["reason", "meaning", "`retry`"],
        ([f"`{each}`", meaning[each], "by default" if each in again else ""] for each in Reason),
    )


def metrics() -> str:
    """Every metric as Prometheus sees it: Ray puts `ray_` before a name, and `_total` after a counter's."""
    rows = [
        [f"`ray_{name}_total`", "counter", f"`output`, `{tag}`", says]
        for name, (says, tag) in prometheus.COUNTERS.items()
    ]
    rows += [[f"`ray_{name}`", "gauge", "`output`", says] for name, says in prometheus.GAUGES.items()]
    return table(["metric", "kind", "labels", "meaning"], iter(rows))


def events() -> str:
    """Every event of the JSON log, in the order in which a run has them."""
    rows = [[f"`{name}`", says, _listed(fields)] for name, (says, fields) in log.EVENTS.items()]
    return table(["event", "meaning", "fields"], iter(rows))


def _listed(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", ") if name)


def file(name: str) -> str:
    """A file of the repository, whole."""
    kind = {".py": "python", ".yaml": "yaml"}[Path(name).suffix]
    return f"```{kind}\n{(ROOT / name).read_text().rstrip()}\n```"


def changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text().partition("\n")[2].strip()


GENERATED: dict[str, Callable[..., str]] = {
    "recipe": recipe, "init": init, "commands": commands, "columns": columns, "reasons": reasons,
    "metrics": metrics, "events": events, "rooms": rooms, "contracts": contracts, "file": file,
    "changelog": changelog,
}  # fmt: skip
_PLACE = re.compile(r"<!-- generated: (\w+)(?: (\S+))? -->")


def filled(markdown: str) -> str:
    """A page with each of its places filled."""
    return _PLACE.sub(lambda found: GENERATED[found[1]](*filter(None, [found[2]])), markdown)
