"""Turn raw rows into decoded rows: decode each image once, then paint every canvas that the models use.

Exact painting resizes with Pillow and equals transformers' processors bit for bit. Fast painting decodes JPEG without
Pillow, to the same pixels, and resizes with torch, which changes some pixels by one level.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from jobs import schema
from jobs.config import DecodeConfig
from jobs.errors import Reason, Reject, Stage
from jobs.images.canvas import Canvas, Pixels, paint
from jobs.images.decode import Picture, decode

Render = Callable[[bytes], list[Pixels]]


def render(data: bytes, config: DecodeConfig, canvases: Sequence[Canvas], *, fast: bool = False) -> list[Pixels]:
    """Decode an image and paint it: one uint8 [height, width, 3] per canvas, in their order. Raises Reject."""
    picture = decode(data, config, fast=fast)
    try:
        return [_paint(picture, canvas, config, fast) for canvas in canvases]
    except MemoryError as exc:
        height, width = picture.size
        raise Reject(Reason.TOO_LARGE, f"{width}x{height} pixels: not enough memory to resize them") from exc


def _paint(picture: Picture, canvas: Canvas, config: DecodeConfig, fast: bool) -> Pixels:
    """Refuse a strip: a 10,000,000x1 picture, resized to a shortest edge of 224, would be 2 billion pixels long."""
    size = canvas.resized_size(*picture.size)
    if canvas.shortest_edge and size and size[0] * size[1] > config.max_pixels:
        message = f"{picture.size[1]}x{picture.size[0]} pixels would be resized to {size[1]}x{size[0]}"
        raise Reject(Reason.TOO_LARGE, f"{message}, more than decode.max_pixels {config.max_pixels}")
    if fast:
        from jobs.images import torch_resize

        return torch_resize.paint(picture.array, canvas, size)
    return paint(picture.image, canvas)


def paint_rows(
    raw: pa.Table,
    config: DecodeConfig,
    canvases: Sequence[Canvas],
    render_image: Render | None = None,
    *,
    keep_images: bool = False,
) -> pa.Table:
    """Raw rows -> decoded rows, 1:1. A good row gets every canvas; a reject gets a reason and black canvases.

    `render_image` replaces the default, which is `render` in this process, exact. `keep_images` keeps the bytes.
    """
    expected = schema.decoded(raw.schema, [canvas.field for canvas in canvases], images=keep_images)
    images, reasons, ends = (raw.column(name).to_pylist() for name in (schema.IMAGE, schema.REASON, schema.END))
    stacks = [np.zeros((raw.num_rows, *canvas.size, 3), np.uint8) for canvas in canvases]
    rejects: dict[int, Reject] = {}
    for row, data in enumerate(images):
        if ends[row] or reasons[row] is not None:
            continue
        try:
            pixels = render_image(data) if render_image else render(data, config, canvases)
            for stack, painted in zip(stacks, pixels, strict=True):
                stack[row] = painted
        except Reject as exc:
            rejects[row] = exc
    raw = schema.mark_rejects(raw, Stage.DECODE, rejects)
    columns = dict(zip(raw.column_names, raw.columns, strict=True))
    columns |= {canvas.name: _tensors(canvas, stack) for canvas, stack in zip(canvases, stacks, strict=True)}
    return pa.Table.from_arrays([columns[name] for name in expected.names], schema=expected)


def _tensors(canvas: Canvas, stack: Pixels) -> pa.Array:
    """uint8 [n, height, width, 3] -> Arrow tensors, without a copy.

    Not by pyarrow's from_numpy_ndarray: it refuses an empty stack and adds a permutation to the type.
    """
    tensor_type = canvas.field.type
    rows = pa.FixedSizeListArray.from_arrays(pa.array(stack.reshape(-1)), type=tensor_type.storage_type)
    return pa.ExtensionArray.from_storage(tensor_type, rows)
