"""Decoding: every mode and orientation gives the picture a person would see, everything else a reason."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.config import DecodeConfig
from jobs.errors import Reason, Reject
from jobs.images.decode import decode

Turn = Image.Transpose
STORED = {  # how a camera stores an upright picture that it tags with this orientation
    1: None, 2: Turn.FLIP_LEFT_RIGHT, 3: Turn.ROTATE_180, 4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE, 6: Turn.ROTATE_90, 7: Turn.TRANSVERSE, 8: Turn.ROTATE_270,
}  # fmt: skip
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(data: bytes, **options: Any) -> "np.ndarray[Any, Any]":
    image = decode(data, DecodeConfig(**options)).image
    assert type(image) is Image.Image
    assert image.mode == "RGB"
    return np.asarray(image)


def reason(data: bytes, **options: Any) -> Reason:
    with pytest.raises(Reject) as caught:
        decode(data, DecodeConfig(**options))
    assert caught.value.message
    return caught.value.reason


def photo(width: int = 90, height: int = 60) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    return Image.fromarray(noise, "RGB").resize((width, height))


def solid(mode: str, value: Any) -> Image.Image:
    return Image.new(mode, (5, 4), value)


def gray(dtype: Any, value: float) -> Image.Image:
    return Image.fromarray(np.full((4, 5), value, dtype))


def png(width: int, height: int, lines: bytes) -> bytes:
    """16 bits per channel, which Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


MODES = {
    "L": (encode(solid("L", 90), "PNG"), (90, 90, 90)),
    "LA": (encode(solid("LA", (90, 255)), "PNG"), (90, 90, 90)),
    "P": (encode(solid("RGB", (200, 30, 60)).quantize(4), "PNG"), (200, 30, 60)),
    "P with tRNS": (encode(solid("RGB", RED).quantize(4), "PNG", transparency=0), WHITE),
    "PA": (encode(solid("PA", 0), "TIFF"), WHITE),
    "RGBA": (encode(solid("RGBA", (9, 8, 7, 255)), "PNG"), (9, 8, 7)),
    "CMYK": (encode(solid("CMYK", (0, 255, 255, 0)), "JPEG", quality=100), (254, 0, 0)),
    "1": (encode(solid("1", 1), "PNG"), WHITE),
    "I;16": (encode(gray(np.uint16, 0x8011), "PNG"), (128, 128, 128)),
    "I;16B": (encode(gray(">u2", 0x8011), "TIFF"), (128, 128, 128)),
    "I": (encode(gray(np.int32, 0x8011), "TIFF"), (128, 128, 128)),
    "F to 1": (encode(gray(np.float32, 0.5), "TIFF"), (127, 127, 127)),
    "F to 255": (encode(gray(np.float32, 200), "TIFF"), (200, 200, 200)),
    "F of NaN": (encode(gray(np.float32, np.nan), "TIFF"), (0, 0, 0)),
    "LAB": (encode(solid("LAB", (255, 128, 128)), "TIFF"), WHITE),
    "16-bit RGB": (png(5, 4, (b"\0" + b"\x12\x34\x80\xff\xff\xff" * 5) * 4), (0x12, 0x80, 0xFF)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_the_rgb_it_shows(name: str) -> None:
    data, expected = MODES[name]
    shown = pixels(data)
    assert shown.shape == (4, 5, 3)
    assert np.abs(shown.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4"])
def test_16_bit_gray_is_scaled_where_pillow_would_clip_it_to_white(dtype: str) -> None:
    ramp = np.arange(0, 65536, 256).reshape(16, 16)
    shown = pixels(encode(Image.fromarray(ramp.astype(dtype)), "TIFF"))
    assert np.array_equal(shown[..., 0], ramp >> 8)


def oriented(image: Image.Image, format: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, format, exif=exif)


@pytest.mark.parametrize("orientation", STORED)
def test_all_orientations_give_the_same_upright_picture_and_the_option_turns_it_off(orientation: int) -> None:
    turn = STORED[orientation]
    stored = photo() if turn is None else photo().transpose(turn)
    data = oriented(stored, "PNG", orientation)
    assert np.array_equal(pixels(data), np.asarray(photo()))
    assert np.array_equal(pixels(data, exif_orientation=False), np.asarray(stored))


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF", "PNG", "TIFF"])
def test_every_format_is_turned_once(format: str) -> None:
    shown = pixels(oriented(photo().transpose(Turn.ROTATE_90), format, 6))
    assert np.abs(shown.astype(int) - np.asarray(photo())).mean() < 12


def test_a_tiff_is_upright_whatever_the_option_says() -> None:
    """Pillow turns TIFFs itself, in load(); the option's description says so."""
    data = oriented(photo().transpose(Turn.ROTATE_90), "TIFF", 6)
    assert np.array_equal(pixels(data, exif_orientation=False), np.asarray(photo()))


@pytest.mark.parametrize("block", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_a_broken_exif_block_costs_no_picture(block: bytes) -> None:
    assert np.array_equal(pixels(encode(photo(), "PNG", exif=block)), np.asarray(photo()))


TRANSPARENT = {
    "RGBA": encode(solid("RGBA", (200, 0, 0, 0)), "PNG"),
    "webp": encode(solid("RGBA", (200, 0, 0, 0)), "WEBP", lossless=True, exact=True),
    "LA": encode(solid("LA", (200, 0)), "PNG"),
    "L": encode(solid("L", 7), "PNG", transparency=7),
    "1": encode(solid("1", 0), "PNG", transparency=0),
    "RGB": encode(solid("RGB", (7, 8, 9)), "PNG", transparency=(7, 8, 9)),
    "P": encode(solid("RGB", RED).quantize(4), "PNG", transparency=0),
    "I;16": encode(gray(np.uint16, 7), "PNG", transparency=7),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparency_is_white_unless_it_is_dropped(name: str) -> None:
    assert (pixels(TRANSPARENT[name]) == 255).all()
    assert not (pixels(TRANSPARENT[name], alpha="drop") == 255).all()


def test_of_16_bit_grays_only_the_transparent_one_is_white() -> None:
    """Its neighbours have the same high byte."""
    grays = np.array([[0x1232, 0x1233, 0x1234, 0x1235]], np.uint16)
    shown = pixels(encode(Image.fromarray(grays), "PNG", transparency=0x1234))
    assert shown[0, :, 0].tolist() == [0x12, 0x12, 255, 0x12]


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    data = encode(solid("RGBA", (255, 0, 0, 128)), "PNG")
    assert pixels(data)[0, 0].tolist() == [255, 127, 127]


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_animation_is_its_first_frame(format: str) -> None:
    data = encode(solid("RGB", RED), format, save_all=True, append_images=[solid("RGB", BLUE)])
    assert np.abs(pixels(data).astype(int) - RED).max() <= 4


HALF = photo(640, 480)
AVIF = encode(HALF, "AVIF")
REASONS = [
    (b"", Reason.EMPTY),
    (b"<!DOCTYPE html><html><body>404</body></html>", Reason.NOT_AN_IMAGE),
    (b'{"error": "gone"}', Reason.NOT_AN_IMAGE),
    (bytes(1000), Reason.NOT_AN_IMAGE),
    (np.random.default_rng(1).bytes(5000), Reason.NOT_AN_IMAGE),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), Reason.UNSUPPORTED_FORMAT),
    (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), Reason.UNSUPPORTED_FORMAT),
    (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', Reason.UNSUPPORTED_FORMAT),
    (b'\xef\xbb\xbf<svg xmlns="http://www.w3.org/2000/svg"/>', Reason.UNSUPPORTED_FORMAT),
    (b"<!-- made by hand --><svg/>", Reason.UNSUPPORTED_FORMAT),
    (b"<!-- a page --><HTML><body><svg/></body></HTML>", Reason.NOT_AN_IMAGE),
    (b"%!PS-Adobe-3.0 EPSF-3.0", Reason.UNSUPPORTED_FORMAT),
    (b"\xc5\xd0\xd3\xc6\x1e\0\0\0" + bytes(99), Reason.UNSUPPORTED_FORMAT),
    *((encode(HALF, format)[:-500], Reason.TRUNCATED) for format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")),
    (AVIF[:-500], Reason.TRUNCATED),
    (AVIF.replace(b"ftypavif", b"ftypmif1")[:-500], Reason.TRUNCATED),
    (AVIF[:60] + bytes(60) + AVIF[120:], Reason.CORRUPT),
    (b"\x89PNG\r\n\x1a\n" + bytes(200), Reason.CORRUPT),
    (encode(photo(), "PNG").replace(b"IDAT", b"IDAT\xff\xff"), Reason.CORRUPT),
    (png(60_000, 60_000, b""), Reason.TOO_LARGE),
]


@pytest.mark.parametrize(("data", "expected"), REASONS)
def test_what_is_no_picture_says_why(data: bytes, expected: Reason) -> None:
    assert reason(data) == expected


@pytest.mark.parametrize(("limit", "fits"), [(122, True), (121, True), (120, False), (1, False)])
def test_max_pixels_is_the_largest_picture_taken(limit: int, fits: bool) -> None:
    data = encode(Image.new("RGB", (11, 11)), "PNG")
    if fits:
        assert pixels(data, max_pixels=limit).shape == (11, 11, 3)
    else:
        assert reason(data, max_pixels=limit) == Reason.TOO_LARGE


def test_the_callers_pillow_keeps_its_own_limit() -> None:
    """A small decode.max_pixels made every later Image.open of the same process a bomb."""
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(Reject):
        decode(encode(Image.new("RGB", (9, 9)), "PNG"), DecodeConfig(max_pixels=4))
    assert before == Image.MAX_IMAGE_PIXELS
