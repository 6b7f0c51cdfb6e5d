"""The uint8 pixels a model wants, as its image processor's config says, and how the device scales them.

A Canvas is painted on the CPU exactly as transformers' Pillow-backed processors do it, bit for bit. A Scale turns
it into the floats they would have given, on the device: floats never travel.
"""

import hashlib
import math
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from jobs import schema

Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # [height, width, 3], RGB


@dataclass(frozen=True)
class Canvas:
    """Resize (squash to a size, or the shortest edge), then centre crop; sizes are (height, width) in pixels."""

    squash: tuple[int, int] | None = None
    shortest_edge: int | None = None
    crop: tuple[int, int] | None = None
    resample: int = Image.Resampling.BILINEAR

    def __post_init__(self) -> None:
        if not self.crop and not self.squash:
            raise ValueError("images of different shapes would give canvases of different sizes: no size and no crop")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the result."""
        size = self.crop or self.squash
        assert size is not None
        return size

    def resized(self, height: int, width: int) -> tuple[int, int] | None:
        """(height, width) between resize and crop; the longer edge has no bound. None: not resized."""
        if not self.shortest_edge:
            return self.squash
        longer = int(self.shortest_edge * max(height, width) / min(height, width))
        return (self.shortest_edge, longer) if height <= width else (longer, self.shortest_edge)

    @property
    def name(self) -> str:
        """The column's name: the size to read, a digest to tell canvases of one size apart."""
        digest = hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:6]
        return f"_canvas_{self.size[0]}x{self.size[1]}_{digest}"

    @property
    def bytes(self) -> int:
        """Size of one row."""
        return self.size[0] * self.size[1] * 3

    @property
    def field(self) -> pa.Field:
        return schema.canvas(self.name, *self.size)


@dataclass(frozen=True)
class Scale:
    """value = pixel * factor + offset, per channel."""

    factor: tuple[float, float, float]
    offset: tuple[float, float, float]


def paint(image: Image.Image, canvas: Canvas, size: tuple[int, int] | None = None) -> Pixels:
    """From an RGB image; resized to (height, width), where its own do not say to what."""
    size = size or canvas.resized(image.height, image.width)
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling(canvas.resample))
    pixels = np.asarray(image)
    return centre_crop(pixels, canvas.crop) if canvas.crop else pixels


def centre_crop(pixels: Pixels, crop: tuple[int, int]) -> Pixels:
    """Pads with black where the image is smaller than the crop."""
    height, width = pixels.shape[:2]
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    if top >= 0 and left >= 0:
        return pixels[top : top + crop[0], left : left + crop[1]]
    padded = np.zeros((max(crop[0], height), max(crop[1], width), 3), np.uint8)
    down, right = math.ceil((padded.shape[0] - height) / 2), math.ceil((padded.shape[1] - width) / 2)
    padded[down : down + height, right : right + width] = pixels
    top, left = max(0, top + down), max(0, left + right)
    return padded[top : top + crop[0], left : left + crop[1]]
