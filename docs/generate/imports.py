"""Read which room imports which: a room is a folder of `jobs/`, a file beside them, or `cluster/`."""

import ast
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("jobs", "cluster")
_MARKERS = ("__init__.py", "__main__.py")  # of a package: no room of their own


@dataclass(frozen=True)
class Code:
    """`rooms` maps a room to its files and their lines, `imports` a room to the rooms that it imports."""

    rooms: dict[str, dict[str, int]]
    imports: dict[str, set[str]]

    @property
    def arrows(self) -> list[tuple[str, str]]:
        return sorted((room, used) for room, all_used in self.imports.items() for used in all_used)


def read(root: Path = ROOT) -> Code:
    """Parse every file of both packages; nothing is imported."""
    files = {
        path.relative_to(root): path.read_text() for name in PACKAGES for path in sorted(root.glob(f"{name}/**/*.py"))
    }
    rooms: dict[str, dict[str, int]] = defaultdict(dict)
    for path, text in files.items():
        lines = len(text.splitlines())
        if path.name not in _MARKERS or len(path.parts) > 2:
            rooms[_room(path)][_label(path)] = lines
    imports: dict[str, set[str]] = {room: set() for room in rooms}
    for path, text in files.items():
        room = _room(path)
        if room in rooms:
            used = {_room_of(name, rooms) for name in _imported(ast.parse(text))}
            imports[room] |= {name for name in used if name and name != room}
    return Code(dict(sorted(rooms.items())), imports)


def levels(code: Code) -> dict[str, int]:
    """0 for a room that imports no other, else one above the highest that it imports. A circle shares a level."""
    groups = _circles(code.imports)
    found: dict[str, int] = {}

    def level(room: str) -> int:
        if room not in found:
            outside = {used for each in groups[room] for used in code.imports[each]} - groups[room]
            height = 1 + max((level(used) for used in sorted(outside)), default=-1)
            found.update(dict.fromkeys(groups[room], height))
        return found[room]

    for room in code.rooms:
        level(room)
    return found


def necessary(code: Code) -> list[tuple[str, str]]:
    """The arrows that do not follow from others: a -> c is left out where a -> b -> c is there."""
    reach = {room: _reachable(room, code.imports) for room in code.rooms}
    return [
        (room, used)
        for room, used in code.arrows
        if not any(used in reach[other] for other in code.imports[room] - {used})
    ]


def _reachable(room: str, imports: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [room]
    while waiting:
        for used in imports[waiting.pop()] - seen:
            seen.add(used)
            waiting.append(used)
    return seen


def _circles(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """Each room with those that it imports and that import it, itself among them."""
    reach = {room: _reachable(room, imports) for room in imports}
    return {room: {room} | {other for other in reach[room] if room in reach[other]} for room in imports}


def _room(path: Path) -> str:
    if path.parts[0] != "jobs":
        return path.parts[0]
    return path.parts[1].removesuffix(".py")


def _label(path: Path) -> str:
    """`parquet` for jobs/sources/parquet.py, the package's own name for its __init__."""
    return path.parent.name if path.stem == "__init__" else path.stem


def _room_of(name: str, rooms: dict[str, dict[str, int]]) -> str | None:
    parts = name.split(".")
    if parts[0] == "cluster":
        return "cluster"
    return parts[1] if parts[0] == "jobs" and len(parts) > 1 and parts[1] in rooms else None


def _imported(tree: ast.Module) -> set[str]:
    """Every dotted name that a file imports, in functions too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found
