"""The generated pages are complete, and what they are made from is."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from docs.generate import imports, picture
from docs.generate.architecture import contracts, rooms
from docs.generate.reference import filled, parsers, sections
from jobs import cli, log, schema
from jobs.driver import prometheus
from jobs.errors import Reason
from jobs.output import identity
from tests.support.pages import ROOT, pages, text_of

CODE = sorted([*ROOT.glob("jobs/**/*.py"), *ROOT.glob("cluster/**/*.py")])
REFERENCE = ROOT / "docs" / "reference"
_THEIRS = {"Could not connect to the endpoint", "No space left on device", "ExpiredToken", "AccessDenied"}


def page(name: str) -> str:
    return filled((REFERENCE / f"{name}.md").read_text())


def test_every_recipe_key_is_documented() -> None:
    text = page("recipe")
    for section, model in sections():
        table = text.partition(f"### `{section}`\n")[2].partition("\n### ")[0]
        for key in model.model_fields:
            assert f"| `{key}` |" in table or f"### `{section}.{key}`" in text, f"{section}.{key}"


def test_every_command_and_flag_is_documented() -> None:
    text = page("commands")
    for name, parser in parsers().items():
        part = text.partition(f"### `{name}`\n")[2].partition("\n### ")[0]
        for flag in (flag for action in parser._actions for flag in action.option_strings if action.dest != "help"):
            assert f"{flag}" in part, f"{name} {flag}"


def test_every_exit_code_is_documented() -> None:
    text = page("commands")
    for code in (cli.DONE, cli.FAILED, cli.USAGE_ERROR, cli.DAMAGED, cli.INTERRUPTED):
        assert f"| {code} |" in text


def test_every_column_reason_metric_and_event_is_documented() -> None:
    output = page("output")
    assert all(f"| `{name}` |" in output for name in schema.RESERVED)
    assert all(f"`{key}`" in output for key in (schema.PROVENANCE, schema.MODELS, *schema.CLASS_NAMES.values()))
    assert all(f"| `{reason}` |" in page("reasons") for reason in Reason)
    assert all(f"| `ray_{name}" in page("metrics") for name in (*prometheus.COUNTERS, *prometheus.GAUGES))
    assert all(f"| `{name}` |" in page("events") for name in log.EVENTS)


def test_nothing_of_a_page_is_left_to_generate() -> None:
    assert not [name for each in pages() for name in re.findall("<!-- generated[^>]*>", filled(text_of(each)))]


def test_what_may_change_between_two_runs_is_documented() -> None:
    text = (ROOT / "docs" / "concepts" / "identity.md").read_text()
    free, belongs = zip(*re.findall(r"^\| (`.*) \| (`.*) \|$", text, re.MULTILINE), strict=True)
    for section, keys in identity._NOT_IDENTITY.items():
        names = [f"{section}.{key}" for key in keys] if isinstance(keys, set) else [section]
        assert all(f"`{name}`" in " ".join(free) and f"`{name}`" not in " ".join(belongs) for name in names)


def events() -> list[tuple[str, ast.Call]]:
    """(event, call) of each call of `say` whose event is a literal."""
    found = []
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("say") and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and len(node.args) > 1:
                    found.append((str(first.value), node))
    return found


def test_every_event_that_is_logged_is_declared_with_its_fields() -> None:
    """The events are for programs: one that nobody declared is one that nobody can rely on."""
    assert len(events()) > 15
    for event, call in events():
        assert event in log.EVENTS, event
        fields = log.EVENTS[event][1].split(", ")
        given = {each.arg for each in call.keywords if each.arg and each.arg not in ("level", "line")}
        assert given <= set(fields), f"{event}: {sorted(given - set(fields))}"


def test_the_picture_shows_the_rooms_files_and_imports_of_the_code() -> None:
    """make picture draws it again. Lines may differ: they are of the day when it was drawn."""

    def shown(svg: str) -> list[str]:
        return [re.sub(r"[\d,]+ lines", "lines", title) for title in re.findall("<title>(.*?)</title>", svg)]

    assert sorted(shown(picture.TARGET.read_text())) == sorted(shown(picture.draw(imports.read())))


def test_the_same_code_gives_the_same_picture() -> None:
    assert picture.draw(imports.read()) == picture.draw(imports.read())


def test_every_room_has_a_phrase() -> None:
    rows = [line.split(" | ") for line in rooms().splitlines()[2:]]
    assert len(rows) == len(imports.read().rooms)
    assert all(phrase.strip() for _, phrase, _ in rows)


def test_import_contracts_are_shown_in_words(tmp_path: Path) -> None:
    settings = tmp_path / "pyproject.toml"
    settings.write_text(
        '[[tool.importlinter.contracts]]\nname = "Rooms"\ntype = "layers"\nlayers = ["a.top", "a.b | a.c"]\n'
        '[[tool.importlinter.contracts]]\nname = "Apart"\ntype = "forbidden"\n'
        'source_modules = ["b"]\nforbidden_modules = ["a", "ray"]\n'
    )
    assert contracts(settings).splitlines()[2:] == [
        "| Rooms | each may import only those after it: `a.top` → `a.b` and `a.c` |",
        "| Apart | `b` must not import `a`, `ray` |",
    ]


def quoted() -> list[str]:
    """What the page for whoever is on call says a program prints."""
    text = (ROOT / "docs" / "operations" / "on-call.md").read_text()
    cells = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ") and "what you see" not in line]
    return [code for cell in cells for code in re.findall("`([^`]+)`", cell) if " " in code]


@pytest.mark.parametrize("message", quoted())
def test_messages_on_the_page_for_whoever_is_on_call_are_those_of_the_code(message: str) -> None:
    """Its words between what is filled in: numbers, names in capitals, what another message says."""
    pieces = [piece.strip(" :,;") for piece in re.split(r"\b\d[\d,.:]*|\.\.\.|\b[A-Z]{2,}s?\b|[()]|: ", message)]
    for piece in (piece for piece in pieces if len(piece.split()) > 2 and piece not in _THEIRS):
        assert piece in _said(), piece


@cache
def _said() -> str:
    """Every text of the code; what is filled in is left out."""
    texts = []
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(str(part.value) for part in node.values if isinstance(part, ast.Constant)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return re.sub(" +", " ", "\n".join(texts))
