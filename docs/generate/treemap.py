"""Cut a rectangle into tiles of given areas, each as square as it can be (Bruls, Huizing and van Wijk, 2000)."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rect:
    x: float
    y: float
    width: float
    height: float


def squarify(areas: Sequence[float], inside: Rect) -> list[Rect]:
    """One tile for each area, in this order; the areas come in descending order and fill the rectangle."""
    total = sum(areas)
    scale = inside.width * inside.height / total if total else 0.0
    left, tiles = [area * scale for area in areas], list[Rect]()
    while left:
        side = min(inside.width, inside.height)
        count = 1
        while count < len(left) and _worst(left[: count + 1], side) <= _worst(left[:count], side):
            count += 1
        row, left = left[:count], left[count:]
        placed, inside = _lay(row, inside)
        tiles += placed
    return tiles


def _worst(row: Sequence[float], side: float) -> float:
    """The largest ratio of a tile's sides."""
    total = sum(row)
    return max(max(side**2 * area / total**2, total**2 / (side**2 * area)) for area in row)


def _lay(row: Sequence[float], inside: Rect) -> tuple[list[Rect], Rect]:
    total, tiles = sum(row), []
    if inside.width >= inside.height:
        thick, at = total / inside.height, inside.y
        for area in row:
            tiles.append(Rect(inside.x, at, thick, area / thick))
            at += area / thick
        return tiles, Rect(inside.x + thick, inside.y, inside.width - thick, inside.height)
    thick, at = total / inside.width, inside.x
    for area in row:
        tiles.append(Rect(at, inside.y, area / thick, thick))
        at += area / thick
    return tiles, Rect(inside.x, inside.y + thick, inside.width, inside.height - thick)
