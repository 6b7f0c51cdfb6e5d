"""Place boxes in layers with few crossing lines: Sugiyama's method, small and without chance.

Lines that pass a layer get a narrow place in it, so that they run between boxes and not behind them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean

_SWEEPS = 40
_PASSAGE = 10.0  # width of the place that a passing line gets
_GAP = 26.0  # between two neighbours of a layer
_STRAIGHT = 6.0  # how much more a passing line resists a bend than a box does a move


@dataclass
class Place:
    """One place in a layer: a box, or the passage of a line. `x` is its centre."""

    name: str
    layer: int
    width: float
    x: float = 0.0
    above: list["Place"] = field(default_factory=list)
    below: list["Place"] = field(default_factory=list)


@dataclass(frozen=True)
class Layered:
    """`layers` from the ground up, each from left to right; `lines` as the places that each passes, from above."""

    layers: list[list[Place]]
    lines: dict[tuple[str, str], list[Place]]


def place(widths: Mapping[str, float], levels: Mapping[str, int], arrows: Sequence[tuple[str, str]]) -> Layered:
    """Boxes of these widths; each arrow leads from a higher level to a lower one."""
    boxes = {name: Place(name, levels[name], width) for name, width in widths.items()}
    layers: list[list[Place]] = [[] for _ in range(max(levels.values()) + 1)]
    for name in sorted(boxes):
        layers[levels[name]].append(boxes[name])
    lines = {arrow: _line(arrow, boxes, layers) for arrow in arrows if levels[arrow[0]] > levels[arrow[1]]}
    _order(layers)
    _position(layers)
    return Layered(layers, lines)


def _line(arrow: tuple[str, str], boxes: Mapping[str, Place], layers: list[list[Place]]) -> list[Place]:
    start, end = boxes[arrow[0]], boxes[arrow[1]]
    passed = [Place("", level, _PASSAGE) for level in range(start.layer - 1, end.layer, -1)]
    for each in passed:
        layers[each.layer].append(each)
    chain = [start, *passed, end]
    for upper, lower in pairwise(chain):
        upper.below.append(lower)
        lower.above.append(upper)
    return chain


def _order(layers: list[list[Place]]) -> None:
    """Sort each layer by where its neighbours are, up and down in turn; keep the order with the fewest crossings."""
    best, fewest = [list(layer) for layer in layers], _crossings(layers)
    for sweep in range(_SWEEPS):
        upwards = sweep % 2 == 0
        for index in range(1, len(layers)) if upwards else range(len(layers) - 2, -1, -1):
            fixed = {id(each): rank for rank, each in enumerate(layers[index - 1 if upwards else index + 1])}
            layer, ranks = layers[index], {}
            for rank, each in enumerate(layer):
                near = [fixed[id(other)] for other in (each.below if upwards else each.above)]
                ranks[id(each)] = mean(near) if near else rank * len(fixed) / max(1, len(layer))
            layer.sort(key=lambda each: ranks[id(each)])
        crossed = _crossings(layers)
        if crossed < fewest:
            best, fewest = [list(layer) for layer in layers], crossed
    for layer, order in zip(layers, best, strict=True):
        layer[:] = order


def _crossings(layers: list[list[Place]]) -> int:
    count = 0
    for lower, upper in pairwise(layers):
        rank = {id(each): place for place, each in enumerate(lower)}
        ends = [rank[id(below)] for each in upper for below in sorted(each.below, key=lambda b: rank[id(b)])]
        count += sum(one > other for place, one in enumerate(ends) for other in ends[place + 1 :])
    return count


def _position(layers: list[list[Place]]) -> None:
    """Move each place towards its neighbours, as far as its layer's order and widths let it."""
    for layer in layers:
        _fit(layer, [0.0] * len(layer))
    for sweep in range(_SWEEPS):
        for layer in layers if sweep % 2 else reversed(layers):
            _fit(layer, [_wanted(each) for each in layer])


def _wanted(each: Place) -> float:
    """Between its neighbours; a passing line first of all where it passes the next layers."""
    near = [other.x for other in (*each.above, *each.below)]
    passing = [other.x for other in (*each.above, *each.below) if not other.name]
    if not each.name and passing:
        return mean(passing)
    return mean(near) if near else each.x


def _fit(layer: list[Place], wanted: Sequence[float]) -> None:
    """The least-squares places in this order without overlap: pool neighbours that want to change places."""
    offsets, edge = [], 0.0
    for each in layer:
        offsets.append(edge + each.width / 2)
        edge += each.width + _GAP
    pools: list[list[tuple[float, float]]] = []  # (start, weight) of those that move as one
    for each, want, offset in zip(layer, wanted, offsets, strict=True):
        pools.append([(want - offset, 1.0 if each.name else _STRAIGHT)])
        while len(pools) > 1 and _centre(pools[-2]) > _centre(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    starts = [_centre(pool) for pool in pools for _ in pool]
    for each, start, offset in zip(layer, starts, offsets, strict=True):
        each.x = start + offset


def _centre(pool: Sequence[tuple[float, float]]) -> float:
    return sum(start * weight for start, weight in pool) / sum(weight for _, weight in pool)
