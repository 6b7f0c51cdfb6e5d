"""Image bytes become upright RGB, or a Reject with its reason. Pure: no input may crash or hang it.

Follows Pillow, with its traps handled on purpose: 16-bit gray is scaled (Pillow clips it to white), EXIF
orientation is applied, transparency is composited on white, the first frame of an animation counts, Lab goes
through a colour transform, and formats that run other programs are never opened.
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


@dataclass(frozen=True)
class Picture:
    """RGB pixels, upright, as their decoder left them: Pillow's image, or an array."""

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
    """The picture in an encoded image; `fast` decodes a JPEG into an array, to the same pixels. Raises Reject."""
    if not data:
        raise Reject(Reason.EMPTY, "zero bytes")
    with _limit(config.max_pixels):
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                _check_size(image, config)
                if fast and (pixels := _jpeg(data, image, config)) is not None:
                    return Picture(pixels)
                image.load()
                upright = _upright(image) if config.exif_orientation else image
                return Picture(_rgb(upright, config))
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


def _jpeg(data: bytes, image: Image.Image, config: DecodeConfig) -> Pixels | None:
    """The pixels Pillow gives, bit for bit, in half the time; None where Pillow must decide.

    libjpeg could also scale the picture down meanwhile: that leaves the canvases of photos 1 to 5 levels off on
    average, and changes labels. Its defaults, a faster DCT and faster upsampling, are up to 90 levels off.
    """
    if (
        image.format != "JPEG"
        or image.mode not in ("RGB", "L")
        or (config.exif_orientation and _turn(image) is not None)
    ):
        return None
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    except ValueError:
        return None
    return pixels


def _upright(image: Image.Image) -> Image.Image:
    turn = _turn(image)  # TIFF has been turned while it was loaded, and has no tag any more
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except _BROKEN_EXIF:  # says nothing about orientation; the pixels are good
        return None


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
