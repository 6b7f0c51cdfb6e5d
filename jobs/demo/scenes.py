"""Draw geometric scenes whose captions and labels are true by construction.

A scene has one large subject (such as "red circle", the label) and a small companion on a named side of it, on a named
background. The seed determines the scene, so a corpus is reproducible. The training and held-out splits use disjoint
seeds, so no scene is in both.
"""

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFilter

COLORS = {
    "red": (214, 40, 40),
    "orange": (244, 140, 30),
    "yellow": (246, 218, 50),
    "green": (52, 158, 72),
    "blue": (48, 92, 210),
    "purple": (134, 60, 168),
    "pink": (246, 134, 182),
    "white": (246, 246, 242),
}
BACKGROUNDS = {
    "black": (22, 22, 26),
    "gray": (128, 130, 134),
    "navy": (20, 32, 84),
    "beige": (222, 206, 174),
    "teal": (14, 116, 118),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond")
SIDES = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
LABELS = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)

HELD_OUT = 1_000_000_000  # training uses only seeds below this one

Point = tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """The content of one picture; `size` is (width, height) in pixels."""

    color: str
    shape: str
    small_color: str
    small_shape: str
    side: str
    background: str
    size: tuple[int, int]
    seed: int

    @property
    def label(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def caption(self) -> str:
        return (
            f"a small {self.small_color} {self.small_shape} {self.side} "
            f"a large {self.color} {self.shape} on a {self.background} background"
        )


def scene(seed: int) -> Scene:
    """Choose the scene for a seed; subject, companion and background have different colours."""
    rng = random.Random(seed)
    color, small_color = rng.sample(list(COLORS), 2)
    short = rng.randint(120, 220)
    long = round(short * rng.uniform(1.0, 1.5))
    return Scene(
        color=color,
        shape=rng.choice(SHAPES),
        small_color=small_color,
        small_shape=rng.choice(SHAPES),
        side=rng.choice(list(SIDES)),
        background=rng.choice(list(BACKGROUNDS)),
        size=(long, short) if rng.random() < 0.6 else (short, long),
        seed=seed,
    )


def draw(scene: Scene) -> Image.Image:
    """Draw the scene as an antialiased RGB image, with random changes of colours, positions, angles and lighting."""
    rng = random.Random(f"draw {scene.seed}")
    width, height = scene.size
    zoom = 2
    image = _backdrop(BACKGROUNDS[scene.background], (width * zoom, height * zoom), rng)
    pen = ImageDraw.Draw(image)
    unit = min(width, height) * zoom
    dx, dy = SIDES[scene.side]
    cx = width * zoom / 2 - dx * unit * 0.15 + rng.uniform(-0.03, 0.03) * unit
    cy = height * zoom / 2 - dy * unit * 0.15 + rng.uniform(-0.03, 0.03) * unit
    radius = unit * rng.uniform(0.22, 0.27)
    _shape(pen, scene.shape, (cx, cy), radius, _jitter(COLORS[scene.color], rng), rng.uniform(-0.2, 0.2))
    gap = radius + unit * 0.12
    at = (
        cx + dx * gap + rng.uniform(-0.05, 0.05) * unit * abs(dy),
        cy + dy * gap + rng.uniform(-0.05, 0.05) * unit * abs(dx),
    )
    _shape(
        pen,
        scene.small_shape,
        at,
        unit * rng.uniform(0.085, 0.11),
        _jitter(COLORS[scene.small_color], rng),
        rng.uniform(-0.2, 0.2),
    )
    image = image.resize((width, height), Image.Resampling.BOX)
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8))) if rng.random() < 0.3 else image


def _jitter(color: tuple[int, int, int], rng: random.Random) -> tuple[int, int, int]:
    a, b, c = (min(255, max(0, channel + rng.randint(-12, 12))) for channel in color)
    return a, b, c


def _backdrop(color: tuple[int, int, int], size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Draw a vertical gradient around the background colour."""
    base = _jitter(color, rng)
    slope = rng.uniform(-24, 24)
    column = Image.new("RGB", (1, 16))
    for y in range(16):
        shade = slope * (y / 15 - 0.5)
        column.putpixel((0, y), tuple(min(255, max(0, round(channel + shade))) for channel in base))
    return column.resize(size, Image.Resampling.BILINEAR)


def _shape(
    pen: ImageDraw.ImageDraw, name: str, at: Point, radius: float, color: tuple[int, int, int], angle: float
) -> None:
    x, y = at
    box = (x - radius, y - radius, x + radius, y + radius)
    if name == "circle":
        pen.ellipse(box, fill=color)
    elif name == "ring":
        pen.ellipse(box, outline=color, width=max(2, round(radius * 0.38)))
    else:
        turned = [_turn(point, angle) for point in _OUTLINES[name]]
        pen.polygon([(x + radius * px, y + radius * py) for px, py in turned], fill=color)


def _turn(point: Point, angle: float) -> Point:
    cos, sin = math.cos(angle), math.sin(angle)
    return point[0] * cos - point[1] * sin, point[0] * sin + point[1] * cos


def _polar(radii: list[float], start: float) -> list[Point]:
    step = 2 * math.pi / len(radii)
    return [(rad * math.cos(start + i * step), rad * math.sin(start + i * step)) for i, rad in enumerate(radii)]


def _heart() -> list[Point]:
    turns = [2 * math.pi * i / 48 for i in range(48)]
    return [
        (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
        for t in turns
    ]


_ARM = 0.36
_OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": _polar([1.05] * 3, -math.pi / 2),
    "diamond": [(0, -1.15), (0.7, 0), (0, 1.15), (-0.7, 0)],
    "star": _polar([1.1, 0.45] * 5, -math.pi / 2),
    "heart": _heart(),
    "cross": [
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ],
}  # fmt: skip
