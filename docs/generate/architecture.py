"""The architecture page's tables: each room with its phrase, and the import contracts of pyproject.toml."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

from docs.generate.imports import ROOT, levels, read

_SAYS = {
    "layers": "each may import only those after it: {layers}",
    "forbidden": "{source_modules} must not import {forbidden_modules}",
    "independence": "{modules} must not import each other",
}
_BETWEEN = {"layers": " → "}


def rooms() -> str:
    """A line for each room, from the top down: its name, and the first sentence of its docstring."""
    code = read()
    heights = levels(code)
    lines = ["| room | what is in it | files |", "|---|---|---|"]
    for room in sorted(code.rooms, key=lambda name: (-heights[name], name)):
        files = ", ".join(f"`{name}`" for name in code.rooms[room] if name != room)
        lines.append(f"| `{_where(room)}` | {_phrase(room)} | {files} |")
    return "\n".join(lines)


def _where(room: str) -> str:
    if room == "cluster":
        return "cluster/"
    return f"jobs/{room}/" if (ROOT / "jobs" / room).is_dir() else f"jobs/{room}.py"


def _phrase(room: str) -> str:
    path = ROOT / _where(room)
    text = (path / "__init__.py" if path.is_dir() else path).read_text()
    said = ast.get_docstring(ast.parse(text)) or ""
    return " ".join(said.partition("\n\n")[0].split())


def contracts(settings: Path = ROOT / "pyproject.toml") -> str:
    """The import contracts, in words; empty while there are none."""
    found = tomllib.loads(settings.read_text())["tool"].get("importlinter", {}).get("contracts", [])
    if not found:
        return ""
    rows = [f"| {each['name']} | {_said(each)} |" for each in found]
    return "\n".join(["| contract | what it says |", "|---|---|", *rows])


def _said(contract: dict[str, Any]) -> str:
    words = {key: _names(value, _BETWEEN.get(key, ", ")) for key, value in contract.items() if isinstance(value, list)}
    form = _SAYS.get(contract["type"])
    if form is None:
        return "; ".join(f"{key}: {value}" for key, value in words.items())
    ignored = f"; except {words['ignore_imports']}" if "ignore_imports" in words else ""
    return form.format(**words) + ignored


def _names(modules: list[str], between: str) -> str:
    """A layer may name several modules: `a | b` do not import each other, `a : b` may."""
    layers = (re.split(r" *[|:] *", layer) for layer in modules)
    return between.join(" and ".join(f"`{name}`" for name in layer) for layer in layers)
