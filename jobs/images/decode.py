"""Decode image bytes to upright RGB, or raise a Reject with its reason. No input may crash or hang it.

Decoding is Pillow's, with these differences: 16-bit gray is scaled (Pillow clips it to white), EXIF orientation is
applied, transparency is composited on white, an animation is reduced to its first frame, Lab is converted with a
colour transform, and formats that start other programs are never opened.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import simplejpeg
from PIL import AvifImagePlugin, Image, ImageCms, UnidentifiedImageError

from jobs.config import DecodeConfig
from jobs.errors import Reason, Reject
from jobs.images.canvas import Pixels

_FORMATS_THAT_START_PROGRAMS = {"EPS", "WMF"}  # Ghostscript, and the renderer of Windows
_ORIENTATION = 0x0112
_BROKEN_EXIF = (SyntaxError, struct.error, OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
_TRANSPOSE_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SVG_STARTS = (b"<svg", b"<?xml", b"<!DOCTYPE svg", b"<!--")
_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")  # the second: DOS EPS with a preview
_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_UNSUPPORTED = {b"ftyphei": "HEIC", b"ftyphev": "HEIC", b"ftypmif1": "HEIF", b"ftypmsf1": "HEIF", b"JXL ": "JPEG XL"}


@dataclass(frozen=True)
class Picture:
    """Upright RGB pixels in the form that the decoder returns: a Pillow image, or uint8 [height, width, 3]."""

    pixels: Image.Image | Pixels

    @property
    def image(self) -> Image.Image:
        return self.pixels if isinstance(self.pixels, Image.Image) else Image.fromarray(self.pixels)

    @property
    def array(self) -> Pixels:
        """uint8 [height, width, 3]."""
        return np.asarray(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        if isinstance(self.pixels, Image.Image):
            return self.pixels.height, self.pixels.width
        return self.pixels.shape[0], self.pixels.shape[1]


def decode(data: bytes, config: DecodeConfig, *, fast: bool = False) -> Picture:
    """Decode one image. `fast` decodes a JPEG without Pillow, to the same pixels. Raises Reject."""
    if not data:
        raise Reject(Reason.EMPTY, "zero bytes")
    with _pillow_pixel_limit(config.max_pixels):
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                _check_size(image, config)
                if fast and (pixels := _decode_jpeg(data, image, config)) is not None:
                    return Picture(pixels)
                image.load()
                upright = _upright(image) if config.exif_orientation else image
                return Picture(_to_rgb(upright, config))
        except Reject:
            raise
        except Image.DecompressionBombError as exc:
            raise Reject(Reason.TOO_LARGE, str(exc)) from exc
        except UnidentifiedImageError as exc:
            raise _classify_unidentified(data) from exc
        except Exception as exc:  # Pillow's plugins raise any type; here a row becomes a reject
            raise _classify_failure(data, exc) from exc


@contextmanager
def _pillow_pixel_limit(pixels: int) -> Iterator[None]:
    """Set Pillow's limit for one image. It is global to the process, so restore the caller's value."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = (pixels + 1) // 2  # Pillow warns above this value and raises above twice this value
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a decode task has one core; libavif would use every core
    return tuple(name for name in Image.ID if name not in _FORMATS_THAT_START_PROGRAMS)


def _check_size(image: Image.Image, config: DecodeConfig) -> None:
    width, height = image.size
    if width * height > config.max_pixels:
        raise Reject(Reason.TOO_LARGE, f"{width}x{height} pixels, more than decode.max_pixels {config.max_pixels}")


def _decode_jpeg(data: bytes, image: Image.Image, config: DecodeConfig) -> Pixels | None:
    """Decode to Pillow's pixels, bit for bit, in half the time; return None if Pillow must decode this image.

    Two faster modes are not used. Scaling down while decoding changes the canvases of photos by 1 to 5 levels on
    average, and changes labels. simplejpeg's defaults (fast DCT, fast upsampling) change single pixels by up to 90.
    """
    if (
        image.format != "JPEG"
        or image.mode not in ("RGB", "L")
        or (config.exif_orientation and _exif_transpose(image) is not None)
    ):
        return None
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    except ValueError:
        return None
    return pixels


def _upright(image: Image.Image) -> Image.Image:
    transpose = _exif_transpose(image)  # None for TIFF: Pillow applies the orientation on load and removes the tag
    return image if transpose is None else image.transpose(transpose)


def _exif_transpose(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TRANSPOSE_BY_ORIENTATION.get(image.getexif().get(_ORIENTATION, 1))
    except _BROKEN_EXIF:  # the orientation is unknown, but the pixels are good
        return None


def _to_rgb(image: Image.Image, config: DecodeConfig) -> Image.Image:
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
    """Keep the high byte, as libpng does for 16-bit colour. Mode I holds 16-bit gray too (PGM, old PNG)."""
    values = np.asarray(image)
    gray = Image.fromarray((np.clip(values, 0, 65535) >> 8).astype(np.uint8), "L")
    if "transparency" in image.info:  # a PNG's transparent gray: compare all 16 bits, other grays share its high byte
        gray.putalpha(Image.fromarray(values != image.info["transparency"]).convert("L"))
    return gray


def _from_float(image: Image.Image) -> Image.Image:
    """Read values as 0..1 if none is above 1, else as 0..255."""
    values = np.nan_to_num(np.asarray(image))
    scale = 255.0 if values.size and values.max() <= 1.0 else 1.0
    return Image.fromarray(np.clip(values * scale, 0, 255).astype(np.uint8), "L")


@cache
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


def _classify_unidentified(data: bytes) -> Reject:
    head = data[:4096]
    if head.startswith(_IMAGE_MAGIC) or _is_webp(head) or _is_avif(head):
        return _classify_failure(data, ValueError("starts like an image, but its header cannot be read"))
    for magic, name in _UNSUPPORTED.items():
        if magic in head[:16]:
            return Reject(Reason.UNSUPPORTED_FORMAT, f"Pillow does not read {name}")
    if head.startswith(b"\xff\x0a"):
        return Reject(Reason.UNSUPPORTED_FORMAT, "Pillow does not read JPEG XL")
    if _is_svg(head):
        return Reject(Reason.UNSUPPORTED_FORMAT, "Pillow does not read SVG")
    if head.startswith(_POSTSCRIPT):
        return Reject(Reason.UNSUPPORTED_FORMAT, "PostScript is refused: decoding it starts another program")
    return Reject(Reason.NOT_AN_IMAGE, f"no known image format: {len(data)} bytes that start with {head[:24]!r}")


def _classify_failure(data: bytes, exc: Exception) -> Reject:
    """Choose the reason from Pillow's message and, for WebP and AVIF, from the length that the header declares."""
    message = f"{type(exc).__name__}: {exc}"
    if "too large" in message.lower() or "decompression bomb" in message.lower() or isinstance(exc, MemoryError):
        return Reject(Reason.TOO_LARGE, message)
    if "truncated" in message.lower() or _declared_length(data) > len(data):
        return Reject(Reason.TRUNCATED, message)
    return Reject(Reason.CORRUPT, message)


def _declared_length(data: bytes) -> int:
    """Bytes of the whole file, as its header declares; 0 for a format that does not declare it."""
    if _is_webp(data):
        return int.from_bytes(data[4:8], "little") + 8
    end = 0
    while _is_avif(data) and end < len(data):  # a sequence of boxes; each begins with its size
        size = int.from_bytes(data[end : end + 4], "big")
        if size < 8:
            break
        end += size
    return end


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _is_avif(data: bytes) -> bool:
    """Whether AVIF is the main brand or a compatible one; the main brand may be HEIF."""
    return data[4:8] == b"ftyp" and any(brand in data[8:64] for brand in (b"avif", b"avis"))


def _is_svg(head: bytes) -> bool:
    """Whether this is an SVG, perhaps after a byte order mark or a comment; a web page with an SVG inside is not."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return text.startswith(_SVG_STARTS) and b"<svg" in text and b"<html" not in text.lower()
