"""Draw the rooms of the code and their imports as one SVG: `make picture` writes docs/assets/modules.svg.

A tile is a file, as large as it is long. An arrow leads from a room to one that it imports.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from docs.generate.imports import ROOT, Code, levels, necessary, read
from docs.generate.layers import Layered, Place, place
from docs.generate.treemap import Rect, squarify

TARGET = ROOT / "docs" / "assets" / "modules.svg"
_AREA = 74.0  # square units for one line of code
_TALL, _FLAT = 172.0, 54.0  # the inner height of a room, at most and at least
_HEAD, _PAD = 32.0, 8.0  # a room's title, and the space around its tiles
_BETWEEN = 56.0  # of two layers, for the arrows
_MARGIN, _TITLE = 48.0, 178.0
_COLOURS = ("#3b3f6b", "#2f5f8a", "#2b8286", "#5c9a6b", "#a9a04a", "#d9953f", "#c85f43")  # from the ground up
_FONT = "ui-sans-serif, system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
_INK, _SOFT, _PAPER = "#23262b", "#6b6f76", "#fbfaf6"


def draw(code: Code) -> str:
    """The picture of this code; the same code gives the same text."""
    inner = {room: _inner(sum(files.values()), room) for room, files in code.rooms.items()}
    widths = {room: size[0] + 2 * _PAD for room, size in inner.items()}
    heights = _lifted(code, levels(code), widths)
    placed = place(widths, heights, necessary(code))
    everything = [each for layer in placed.layers for each in layer]
    shift = _MARGIN - min(each.x - each.width / 2 for each in everything)
    for each in everything:
        each.x += shift
    bands = _bands(placed, inner)
    cards = {each.name: _card(each, bands[each.layer], inner[each.name]) for each in everything if each.name}
    width = max(900.0, _MARGIN + max(each.x + each.width / 2 for each in everything))
    height = _MARGIN + max(y + tall for y, tall in bands.values())
    shades = {room: _shade(level / max(1, max(heights.values()))) for room, level in heights.items()}
    parts = [*_frame(code, heights, width, height), *_arrows(placed, bands, cards, shades)]
    for room in code.rooms:
        parts += _room(room, code.rooms[room], cards[room], shades[room])
    return "\n".join([*parts, "</svg>", ""])


def _lifted(code: Code, heights: dict[str, int], widths: dict[str, float]) -> dict[str, int]:
    """A room that imports none moves up to those that import it, while its layer stays narrower than the widest."""

    def width(level: int) -> float:
        return sum(widths[room] for room in heights if heights[room] == level)

    widest = max(width(level) for level in set(heights.values()))
    for room in sorted(room for room in heights if not code.imports[room]):
        top = min((heights[user] for user in heights if room in code.imports[user]), default=1)
        fits = [level for level in range(1, top) if width(level) + widths[room] <= widest]
        heights[room] = max(fits, default=heights[room])
    return heights


def _inner(lines: int, room: str) -> tuple[float, float]:
    """Width and height of a room's tiles: its area follows from its lines, its width from its title too."""
    area = lines * _AREA
    height = min(_TALL, max(_FLAT, (area / 2.2) ** 0.5))
    width = max(area / height, 10.2 * len(room) + 46)
    return width, max(area / width, 30.0)


def _bands(placed: Layered, inner: dict[str, tuple[float, float]]) -> dict[int, tuple[float, float]]:
    """Top and height of each layer, the highest first."""
    bands, y = {}, _TITLE
    for layer in reversed(placed.layers):
        tall = max(inner[each.name][1] for each in layer if each.name) + _HEAD + _PAD
        bands[layer[0].layer] = (y, tall)
        y += tall + _BETWEEN
    return bands


def _card(each: Place, band: tuple[float, float], size: tuple[float, float]) -> Rect:
    """In the middle of its layer."""
    tall = size[1] + _HEAD + _PAD
    return Rect(each.x - each.width / 2, band[0] + (band[1] - tall) / 2, each.width, tall)


def _frame(code: Code, heights: dict[str, int], width: float, height: float) -> Iterator[str]:
    files, lines = sum(map(len, code.rooms.values())), sum(sum(files.values()) for files in code.rooms.values())
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="{_FONT}" '
        'role="img" aria-labelledby="title">'
    )
    yield '<title id="title">The rooms of coyo-jobs and what they import</title>'
    yield f'<rect width="{width:.0f}" height="{height:.0f}" fill="{_PAPER}"/>'
    yield _text("coyo-jobs", _MARGIN, 70, 40, _INK, weight=700)
    counts = f"{len(code.rooms)} rooms, {files} files, {lines:,} lines, {max(heights.values()) + 1} levels"
    yield _text(counts, _MARGIN, 100, 17, _INK)
    yield _text(
        "A tile is a file, as large as it is long. A room imports only what lies below it.", _MARGIN, 124, 17, _SOFT
    )
    yield _text("An arrow that follows from two others is left out.", _MARGIN, 146, 17, _SOFT)


def _arrows(
    placed: Layered, bands: dict[int, tuple[float, float]], cards: dict[str, Rect], shades: dict[str, str]
) -> Iterator[str]:
    leaving, arriving = _ports(placed)
    for (room, used), (start, *passed, end) in placed.lines.items():
        x, tip, low = leaving[room, used], cards[used].y, sum(bands[start.layer])
        path = [f"M{x:.1f} {cards[room].y + cards[room].height:.1f}V{low:.1f}"]
        for each in (*passed, end):
            there, (top, tall) = arriving[room, used] if each is end else each.x, bands[each.layer]
            bend = (top - low) * 0.55
            path.append(f"C{x:.1f} {low + bend:.1f} {there:.1f} {top - bend:.1f} {there:.1f} {top:.1f}")
            x, low = there, top + tall
            path.append(f"V{tip - 8 if each is end else low:.1f}")
        yield f"<g><title>{room} imports {used}</title>"
        yield f'<path d="{"".join(path)}" fill="none" stroke="{shades[room]}" stroke-width="2.2" stroke-opacity="0.8"/>'
        yield f'<path d="M{x - 5:.1f} {tip - 10:.1f}h10l-5 9.5z" fill="{shades[room]}"/></g>'


def _ports(placed: Layered) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], float]]:
    """Where each arrow leaves its room and reaches the other: side by side, in the order of where they lead."""
    leaving: dict[tuple[str, str], float] = {}
    arriving: dict[tuple[str, str], float] = {}
    for each in (each for layer in placed.layers for each in layer if each.name):
        down = sorted((chain[1].x, arrow) for arrow, chain in placed.lines.items() if arrow[0] == each.name)
        up = sorted((chain[-2].x, arrow) for arrow, chain in placed.lines.items() if arrow[1] == each.name)
        for found, ports in ((down, leaving), (up, arriving)):
            step = min(32.0, (each.width - 28) / max(1, len(found)))
            for rank, (_, arrow) in enumerate(found):
                ports[arrow] = each.x + (rank - (len(found) - 1) / 2) * step
    return leaving, arriving


def _room(room: str, files: dict[str, int], card: Rect, shade: str) -> Iterator[str]:
    ordered = sorted(files.items(), key=lambda item: (-item[1], item[0]))
    lines, alone = sum(files.values()), list(files) == [room]
    yield f"<g><title>{room}: {len(files)} files, {lines:,} lines</title>"
    yield _box(card, 10, _PAPER)
    yield _box(card, 10, shade, f'fill-opacity="0.16" stroke="{shade}" stroke-width="1.3"')
    yield _text(f"{room}.py" if alone else room, card.x + _PAD + 3, card.y + 22, 17, _INK, weight=600)
    inside = Rect(card.x + _PAD, card.y + _HEAD, card.width - 2 * _PAD, card.height - _HEAD - _PAD)
    for (file, count), tile in zip(ordered, squarify([float(count) for _, count in ordered], inside), strict=True):
        yield f"<g><title>{file}.py, {count:,} lines</title>"
        yield _box(Rect(tile.x + 1.2, tile.y + 1.2, tile.width - 2.4, tile.height - 2.4), 4, shade)
        yield from () if alone else _label(file, tile)
        yield "</g>"
    yield "</g>"


def _label(file: str, tile: Rect) -> Iterator[str]:
    """The file's name as large as its tile lets it, upright in a narrow one; none where it would be too small."""
    letter = 0.58 * len(file)
    flat, upright = min(15.0, (tile.width - 10) / letter), min(15.0, (tile.height - 10) / letter)
    turned = flat < 10.5 and upright > flat * 1.15
    size = min(upright if turned else flat, (tile.width if turned else tile.height) - 6)
    if size < 6:
        return
    x, y = tile.x + tile.width / 2, tile.y + tile.height / 2
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    yield _text(file, x, y + size * 0.35, size, "#ffffff", more=f' text-anchor="middle"{turn}')


def _box(rect: Rect, radius: float, fill: str, more: str = "") -> str:
    at = f'x="{rect.x:.1f}" y="{rect.y:.1f}" width="{max(1.0, rect.width):.1f}" height="{max(1.0, rect.height):.1f}"'
    return f'<rect {at} rx="{radius}" fill="{fill}" {more}/>'


def _text(text: str, x: float, y: float, size: float, fill: str, *, weight: int = 400, more: str = "") -> str:
    look = f'font-size="{size:.1f}" font-weight="{weight}" fill="{fill}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}{more}>{text}</text>'


def _shade(share: float) -> str:
    """The colour of a layer, `share` of the way up from the ground."""
    place, last = share * (len(_COLOURS) - 1), len(_COLOURS) - 2
    index = min(int(place), last)
    low, high = (tuple(bytes.fromhex(colour[1:])) for colour in _COLOURS[index : index + 2])
    return "#" + "".join(f"{round(a + (b - a) * (place - index)):02x}" for a, b in zip(low, high, strict=True))


def main(target: Path = TARGET) -> None:
    target.write_text(draw(read()))
    print(target)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
