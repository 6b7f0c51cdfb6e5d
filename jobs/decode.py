"""Image bytes become upright RGB, or a Reject with its reason. Pure: no input may crash or hang it.

Follows Pillow, with its traps handled on purpose: 16-bit gray is scaled (Pillow clips it to white), EXIF
orientation is applied, transparency is composited on white, the first frame of an animation counts, Lab goes
through a colour transform, and formats that run other programs are never opened.
"""

import io
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import AvifImagePlugin, Image, ImageCms, UnidentifiedImageError

from jobs import schema
from jobs.canvas import Canvas, paint
from jobs.config import DecodeConfig
from jobs.errors import Reason, Reject, Stage

_OTHER_PROGRAMS = {"EPS", "WMF"}  # Ghostscript, and Windows' own renderer
_ORIENTATION = 0x0112
_BROKEN_EXIF = (SyntaxError, struct.error, OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SVG_STARTS = (b"<svg", b"<?xml", b"<!DOCTYPE svg", b"<!--")
_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")  # the second is EPS with a preview, from DOS
_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_NOT_READ = {b"ftyphei": "HEIC", b"ftyphev": "HEIC", b"ftypmif1": "HEIF", b"ftypmsf1": "HEIF", b"JXL ": "JPEG XL"}


def decode(data: bytes, config: DecodeConfig) -> Image.Image:
    """RGB pixels of an encoded image, upright. Raises Reject."""
    if not data:
        raise Reject(Reason.EMPTY, "zero bytes")
    with _limit(config.max_pixels):
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                _check_size(image, config)
                image.load()
                return _rgb(_upright(image) if config.exif_orientation else image, config)
        except Reject:
            raise
        except Image.DecompressionBombError as exc:
            raise Reject(Reason.TOO_LARGE, str(exc)) from exc
        except UnidentifiedImageError as exc:
            raise _unidentified(data) from exc
        except Exception as exc:  # Pillow's plugins raise anything; here a row becomes a reject
            raise _broken(data, exc) from exc


@contextmanager
def _limit(pixels: int) -> Iterator[None]:
    """Pillow's own limit is the process's: set for one image, so that a caller's Pillow is as it was."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = (pixels + 1) // 2  # it raises above twice its limit, and only warns above that
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a decode task has one core; libavif would take all there are
    return tuple(name for name in Image.ID if name not in _OTHER_PROGRAMS)


def _check_size(image: Image.Image, config: DecodeConfig) -> None:
    width, height = image.size
    if width * height > config.max_pixels:
        raise Reject(Reason.TOO_LARGE, f"{width}x{height} pixels, more than decode.max_pixels {config.max_pixels}")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except _BROKEN_EXIF:  # says nothing about orientation; the pixels are good
        return image
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image, config: DecodeConfig) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image if type(image) is Image.Image else image.copy()
    if image.mode.startswith("I"):
        image = _from_16_bit(image)
    elif image.mode == "F":
        image = _from_float(image)
    elif image.mode == "LAB":
        return ImageCms.applyTransform(image, _lab_to_srgb()) or image
    if config.alpha == "white" and image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """The high byte, as libpng does for 16-bit colour; mode I holds 16-bit gray too (PGM, old PNG)."""
    values = np.asarray(image)
    gray = Image.fromarray((np.clip(values, 0, 65535) >> 8).astype(np.uint8), "L")
    if "transparency" in image.info:  # a PNG's transparent gray, of which the high byte alone may be another gray
        gray.putalpha(Image.fromarray(values != image.info["transparency"]).convert("L"))
    return gray


def _from_float(image: Image.Image) -> Image.Image:
    """0..1 when nothing is above 1, else 0..255."""
    values = np.nan_to_num(np.asarray(image))
    scale = 255.0 if values.size and values.max() <= 1.0 else 1.0
    return Image.fromarray(np.clip(values * scale, 0, 255).astype(np.uint8), "L")


@cache
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


def _unidentified(data: bytes) -> Reject:
    head = data[:4096]
    if head.startswith(_IMAGE_MAGIC) or _is_webp(head) or _is_avif(head):
        return _broken(data, ValueError("starts like an image, but its header cannot be read"))
    for magic, name in _NOT_READ.items():
        if magic in head[:16]:
            return Reject(Reason.UNSUPPORTED_FORMAT, f"{name} is not a format Pillow reads")
    if head.startswith(b"\xff\x0a"):
        return Reject(Reason.UNSUPPORTED_FORMAT, "JPEG XL is not a format Pillow reads")
    if _is_svg(head):
        return Reject(Reason.UNSUPPORTED_FORMAT, "SVG is not a format Pillow reads")
    if head.startswith(_POSTSCRIPT):
        return Reject(Reason.UNSUPPORTED_FORMAT, "PostScript would run another program")
    return Reject(Reason.NOT_AN_IMAGE, f"no image format; {len(data)} bytes that start with {head[:24]!r}")


def _broken(data: bytes, exc: Exception) -> Reject:
    """Told apart by what Pillow says and, for WebP and AVIF, by the length their headers promise."""
    says = f"{type(exc).__name__}: {exc}"
    if "too large" in says.lower() or "decompression bomb" in says.lower() or isinstance(exc, MemoryError):
        return Reject(Reason.TOO_LARGE, says)
    if "truncated" in says.lower() or _promised(data) > len(data):
        return Reject(Reason.TRUNCATED, says)
    return Reject(Reason.CORRUPT, says)


def _promised(data: bytes) -> int:
    """The file's length as it says itself; 0 where it does not."""
    if _is_webp(data):
        return int.from_bytes(data[4:8], "little") + 8
    end = 0
    while _is_avif(data) and end < len(data):  # a chain of boxes that begin with their size
        size = int.from_bytes(data[end : end + 4], "big")
        if size < 8:
            break
        end += size
    return end


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _is_avif(data: bytes) -> bool:
    """Named AVIF as its main or a compatible brand: its main brand may be HEIF's."""
    return data[4:8] == b"ftyp" and any(brand in data[8:64] for brand in (b"avif", b"avis"))


def _is_svg(head: bytes) -> bool:
    """Also after a byte order mark or a comment; not where a web page has drawings in it."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return text.startswith(_SVG_STARTS) and b"<svg" in text and b"<html" not in text.lower()


Render = Callable[[bytes], "list[np.ndarray[Any, np.dtype[np.uint8]]]"]


def render(
    data: bytes, config: DecodeConfig, canvases: Sequence[Canvas]
) -> "list[np.ndarray[Any, np.dtype[np.uint8]]]":
    """uint8 [height, width, 3] for each canvas, from one decode. Raises Reject."""
    image = decode(data, config)
    try:
        return [_paint(image, canvas, config) for canvas in canvases]
    except MemoryError as exc:
        raise Reject(Reason.TOO_LARGE, f"{image.width}x{image.height} pixels: no memory to resize them") from exc


def _paint(image: Image.Image, canvas: Canvas, config: DecodeConfig) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Refuses a strip: with its shortest edge at 224 pixels, a 10,000,000x1 picture would be 2 billion long."""
    height, width = canvas.resized(image.height, image.width) or (0, 0)
    if canvas.shortest_edge and height * width > config.max_pixels:
        says = f"{image.width}x{image.height} pixels would be resized to {width}x{height}"
        raise Reject(Reason.TOO_LARGE, f"{says}, more than decode.max_pixels {config.max_pixels}")
    return paint(image, canvas)


def paint_rows(raw: pa.Table, config: DecodeConfig, canvases: Sequence[Canvas], by: Render | None = None) -> pa.Table:
    """Raw rows -> decoded rows, one to one: every canvas, or a reason and black canvases.

    `by` renders in another way than in this process.
    """
    expected = schema.decoded(raw.schema, [canvas.field for canvas in canvases])
    images, reasons, ends = (raw.column(name).to_pylist() for name in (schema.IMAGE, schema.REASON, schema.END))
    stages, messages = (raw.column(name).to_pylist() for name in (schema.STAGE, schema.MESSAGE))
    stacks = [np.zeros((raw.num_rows, *canvas.size, 3), np.uint8) for canvas in canvases]
    for row, data in enumerate(images):
        if ends[row] or reasons[row] is not None:
            continue
        try:
            pixels = by(data) if by else render(data, config, canvases)
            for stack, painted in zip(stacks, pixels, strict=True):
                stack[row] = painted
        except Reject as exc:
            stages[row], reasons[row], messages[row] = Stage.DECODE.value, exc.reason.value, exc.message
    columns = dict(zip(raw.column_names, raw.columns, strict=True))
    columns |= {schema.STAGE: pa.array(stages, pa.string()), schema.REASON: pa.array(reasons, pa.string())}
    columns |= {schema.MESSAGE: pa.array(messages, pa.string())}
    columns |= {canvas.name: _tensors(canvas, stack) for canvas, stack in zip(canvases, stacks, strict=True)}
    return pa.Table.from_arrays([columns[name] for name in expected.names], schema=expected)


def _tensors(canvas: Canvas, stack: "np.ndarray[Any, np.dtype[np.uint8]]") -> pa.Array:
    """Without a copy. pyarrow's from_numpy_ndarray takes no empty stack, and adds a permutation to the type."""
    kind = canvas.field.type
    rows = pa.FixedSizeListArray.from_arrays(pa.array(stack.reshape(-1)), type=kind.storage_type)
    return pa.ExtensionArray.from_storage(kind, rows)
