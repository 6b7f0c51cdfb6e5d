"""Image preprocessing in two steps: a Canvas (resize and crop, uint8, on the CPU) and a Scale (floats, on the device).

Painting a canvas equals transformers' Pillow-backed image processors bit for bit. Scaling happens on the device, so
only uint8 pixels are sent between processes.
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
    """Resize, then centre crop. All sizes are (height, width) in pixels.

    `squash` resizes to a size and ignores the aspect ratio; `shortest_edge` resizes that edge and keeps the ratio;
    `resample` is Pillow's filter. Raises ValueError if neither `squash` nor `crop` fixes the output size.
    """

    squash: tuple[int, int] | None = None
    shortest_edge: int | None = None
    crop: tuple[int, int] | None = None
    resample: int = Image.Resampling.BILINEAR

    def __post_init__(self) -> None:
        if not self.crop and not self.squash:
            raise ValueError("without a size or a crop, images of different shapes make canvases of different sizes")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the painted canvas."""
        size = self.crop or self.squash
        assert size is not None
        return size

    def resized_size(self, height: int, width: int) -> tuple[int, int] | None:
        """(height, width) after the resize, before the crop; None without a resize. The longer edge has no limit."""
        if not self.shortest_edge:
            return self.squash
        longer = int(self.shortest_edge * max(height, width) / min(height, width))
        return (self.shortest_edge, longer) if height <= width else (longer, self.shortest_edge)

    @property
    def name(self) -> str:
        """The column's name: the size for people, and a digest that separates canvases of the same size."""
        digest = hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:6]
        return f"_canvas_{self.size[0]}x{self.size[1]}_{digest}"

    @property
    def nbytes(self) -> int:
        """Bytes of one row."""
        return self.size[0] * self.size[1] * 3

    @property
    def field(self) -> pa.Field:
        return schema.canvas(self.name, *self.size)


@dataclass(frozen=True)
class Scale:
    """value = pixel * factor + offset, for each RGB channel; pixel is 0 to 255."""

    factor: tuple[float, float, float]
    offset: tuple[float, float, float]


def paint(image: Image.Image, canvas: Canvas, size: tuple[int, int] | None = None) -> Pixels:
    """Resize and crop an RGB image: uint8 [height, width, 3]. `size` (height, width) overrides the canvas's resize."""
    size = size or canvas.resized_size(image.height, image.width)
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling(canvas.resample))
    pixels = np.asarray(image)
    return centre_crop(pixels, canvas.crop) if canvas.crop else pixels


def centre_crop(pixels: Pixels, crop: tuple[int, int]) -> Pixels:
    """Cut `crop` (height, width) out of the middle of uint8 [height, width, 3]; pad a smaller image with black."""
    height, width = pixels.shape[:2]
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    if top >= 0 and left >= 0:
        return pixels[top : top + crop[0], left : left + crop[1]]
    padded = np.zeros((max(crop[0], height), max(crop[1], width), 3), np.uint8)
    down, right = math.ceil((padded.shape[0] - height) / 2), math.ceil((padded.shape[1] - width) / 2)
    padded[down : down + height, right : right + width] = pixels
    top, left = max(0, top + down), max(0, left + right)
    return padded[top : top + crop[0], left : left + crop[1]]
