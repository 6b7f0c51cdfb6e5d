"""The fast way to the canvases: how far it may be from Pillow's pixels, and what it must not change at all."""

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import corpus
from jobs.config import DecodeConfig
from jobs.errors import Reject
from jobs.images.canvas import Canvas
from jobs.images.decode import decode
from jobs.images.render import render

SQUASH, CROP = Canvas(squash=(384, 384)), Canvas(squash=(346, 346), crop=(289, 289))
EDGE, CUBIC = Canvas(shortest_edge=96, crop=(80, 80)), Canvas(squash=(120, 90), resample=Image.Resampling.BICUBIC)
LANCZOS = Canvas(squash=(64, 64), resample=Image.Resampling.LANCZOS)
TURNED = Image.Exif()
TURNED[0x0112] = 6
KINDS = {"plain": {}, "progressive": {"progressive": True}, "4:4:4": {"subsampling": 0}, "turned": {"exif": TURNED}}

CANVASES = (SQUASH, CROP, EDGE, CUBIC, LANCZOS)


def jpeg(height: int, width: int, mode: str = "RGB", **options: object) -> bytes:
    smooth = Image.fromarray(np.random.default_rng(height).integers(0, 256, (9, 12, 3), np.uint8)).resize(
        (width, height)
    )
    buffer = io.BytesIO()
    smooth.convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def both(data: bytes, canvas: Canvas) -> list["np.ndarray[Any, np.dtype[np.int64]]"]:
    return [render(data, DecodeConfig(), [canvas], fast=fast)[0].astype(np.int64) for fast in (False, True)]


@pytest.mark.parametrize("canvas", CANVASES, ids=["squash", "crop", "edge", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(300, 500), (97, 31), (500, 380), (700, 400)], ids=str)
def test_fast_pixels_are_a_level_or_two_from_the_exact_ones(canvas: Canvas, size: tuple[int, int]) -> None:
    exact, fast = both(jpeg(*size), canvas)
    assert exact.shape == fast.shape
    assert np.abs(exact - fast).max() <= 2
    assert np.abs(exact - fast).mean() < 0.3


@pytest.mark.parametrize("canvas", [SQUASH, EDGE, CUBIC], ids=["squash", "edge", "bicubic"])
def test_fast_pixels_lie_as_the_block_will_have_them(canvas: Canvas) -> None:
    """Planes of colours would be copied into it byte by byte, which takes as long as the resize."""
    (painted,) = render(jpeg(500, 380), DecodeConfig(), [canvas], fast=True)
    assert painted.strides[1:] == (3, 1)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_jpeg_of_every_kind_comes_out_the_same(mode: str, options: dict[str, object]) -> None:
    exact, fast = both(jpeg(120, 200, mode, **options), EDGE)
    assert np.abs(exact - fast).max() <= 2


def test_a_jpeg_has_the_pixels_pillow_gives(photos: Path) -> None:
    compared = 0
    for path in sorted(photos.rglob("*.jpg")):
        data = path.read_bytes()
        try:
            expected = decode(data, DecodeConfig())
        except Reject:
            continue
        assert np.array_equal(decode(data, DecodeConfig(), fast=True).array, expected.array), path
        compared += 1
    assert compared > 100


@pytest.mark.parametrize("canvas", [SQUASH, Canvas(squash=(64, 64))], ids=["384", "64"])
def test_photos_of_any_size_come_out_a_level_or_two_from_the_exact_ones(photos: Path, canvas: Canvas) -> None:
    """Scaled down by libjpeg while they are decoded, they would be up to 42 off."""
    for path in sorted((photos / "photos").glob("*.jpg")):
        exact, fast = both(path.read_bytes(), canvas)
        assert np.abs(exact - fast).max() <= 3, path
        assert np.abs(exact - fast).mean() < 0.3, path


def test_what_the_exact_way_rejects_the_fast_way_rejects_with_the_same_words(photos: Path) -> None:
    rejected = 0
    for path in sorted((photos / "odd").iterdir()):
        said = []
        for fast in (False, True):
            try:
                said.append(
                    str([canvas.shape for canvas in render(path.read_bytes(), DecodeConfig(), [EDGE], fast=fast)])
                )
            except Reject as exc:
                said.append(f"{exc.reason}: {exc.message}")
        assert said[0] == said[1], path
        rejected += ":" in said[0]
    assert rejected > 20


def test_the_strip_that_no_canvas_can_hold_is_refused_fast_too() -> None:
    buffer = io.BytesIO()
    Image.new("1", (10_000_000, 1)).save(buffer, "PNG")
    with pytest.raises(Reject, match="would be resized"):
        render(buffer.getvalue(), DecodeConfig(), [Canvas(shortest_edge=224, crop=(224, 224))], fast=True)


def test_the_corpus_of_the_benchmarks_has_coyos_sizes_and_texts() -> None:
    r = random.Random(0)
    sides = [corpus.side(r) for _ in range(4000)]
    assert np.quantile(sides, [0.05, 0.5, 0.95]) == pytest.approx([210, 395, 1055], rel=0.12)
    said = corpus.texts(4000)
    assert np.mean([len(text) for text in said]) == pytest.approx(68, rel=0.15)
    assert len(set(said)) / len(said) == pytest.approx(0.76, abs=0.03)
