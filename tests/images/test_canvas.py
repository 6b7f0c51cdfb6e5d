"""Canvases: the pixels that transformers would have made, bit for bit, and one row out for every row in."""

import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from jobs import schema
from jobs.config import DecodeConfig
from jobs.errors import CheckpointError, Reason, Stage
from jobs.images.canvas import Canvas, paint
from jobs.images.render import paint_rows
from jobs.models import loading
from jobs.models.vit import Scaler

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
ALIGN = {"do_center_crop": True, "resample": 2, "rescale_factor": 1 / 127.5, "rescale_offset": True,
         "do_normalize": False, "include_top": False}  # fmt: skip
PROCESSORS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("vit", "ViT", {"size": {"height": 384, "width": 384}}),
    "vit not square": ("vit", "ViT", {"size": {"height": 96, "width": 160}}),
    "vit without mean and std": ("vit", "ViT", {"do_normalize": False}),
    "efficientnet": ("efficientnet", "EfficientNet", {"do_center_crop": True}),
    "align": ("efficientnet", "EfficientNet", ALIGN),
    "clip": ("clip", "CLIP", {}),
    "clip that only crops": ("clip", "CLIP", {"do_resize": False}),
    "convnext below 384": ("convnext", "ConvNext", {"size": {"shortest_edge": 224}}),
    "convnext at 384": ("convnext", "ConvNext", {}),
    "deit": ("deit", "DeiT", {}),
    "beit": ("beit", "Beit", {}),
    "beit that crops": ("beit", "Beit", {"size": {"height": 256, "width": 256}, "do_center_crop": True}),
    "siglip": ("siglip", "Siglip", {}),
    "bit": ("bit", "Bit", {}),
    "dinov2": ("bit", "Bit", {"size": {"shortest_edge": 256}, **IMAGENET}),
    "mobilenet": ("mobilenet_v2", "MobileNetV2", {}),
    "poolformer": ("poolformer", "PoolFormer", {}),
}
SHAPES = [(1, 1), (12, 700), (700, 12), (50, 60), (333, 500), (501, 334), (223, 225), (224, 224)]


def processor(name: str) -> Any:
    module, family, settings = PROCESSORS[name]
    return made(module, family, **settings)


def made(module: str, family: str, **settings: Any) -> Any:
    loading.transformers()
    pil = importlib.import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    return getattr(pil, f"{family}ImageProcessorPil")(**settings)


def read(processor: Any, folder: Path) -> tuple[Canvas, Scaler]:
    """As a job reads them, from the files of a checkpoint."""
    config = loading.transformers().ViTConfig()
    processor.save_pretrained(folder)
    config.save_pretrained(folder)
    canvas, scale = loading.load_canvas_and_scale(str(folder), "here", config)
    return canvas, Scaler(scale, torch.device("cpu"), torch.float32)


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8), "RGB")


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_image_processor(name: str, tmp_path: Path) -> None:
    theirs = processor(name)
    canvas, scaler = read(theirs, tmp_path)
    raw = {"do_rescale": False, "do_normalize": False}
    raw |= {"include_top": False} if hasattr(theirs, "include_top") else {}
    for shape in SHAPES:
        painted = paint(noise(*shape), canvas)
        bytes_ = theirs(images=noise(*shape), return_tensors="np", **raw)["pixel_values"][0]
        assert np.array_equal(painted.transpose(2, 0, 1), bytes_), shape
        floats = theirs(images=noise(*shape), return_tensors="pt")["pixel_values"]
        assert (scaler(torch.from_numpy(painted.copy())[None]) - floats).abs().max() < 2e-6, shape


REFUSED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "pads": ("vit", "ViT", {"do_pad": True, "pad_size": {"height": 256, "width": 256}}),
    "flips the channels": ("mobilevit", "MobileViT", {}),
    "crops by the image's own size": ("perceiver", "Perceiver", {}),
    "resizes by a rule of its own": ("levit", "Levit", {}),
    "keeps the image's shape": ("clip", "CLIP", {"do_center_crop": False}),
    "pads batches": ("detr", "Detr", {}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_processor_that_does_more_is_refused(what: str, tmp_path: Path) -> None:
    module, family, settings = REFUSED[what]
    with pytest.raises(CheckpointError, match=f"here: {family}ImageProcessor"):
        read(made(module, family, **settings), tmp_path)


def test_a_bound_on_the_longest_edge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        read(made("clip", "CLIP", size={"shortest_edge": 224, "longest_edge": 600}), tmp_path)


def test_canvases_of_one_size_made_differently_have_different_names() -> None:
    canvases = [Canvas(squash=(64, 64)), Canvas(squash=(64, 64), resample=3), Canvas(shortest_edge=64, crop=(64, 64))]
    assert len({canvas.name for canvas in canvases}) == 3
    assert {canvas.size for canvas in canvases} == {(64, 64)}


def test_a_canvas_of_no_fixed_size_is_refused() -> None:
    with pytest.raises(ValueError, match="different sizes"):
        Canvas(shortest_edge=224)


CANVASES = (Canvas(squash=(8, 8)), Canvas(shortest_edge=20, crop=(16, 12)))


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def raw_rows(*rows: dict[str, Any]) -> pa.Table:
    """Rows as a source yields them; what a row leaves out is null."""
    blank = {schema.SHARD: "a.parquet", schema.KEY: "k", schema.END: False, "url": "u"}
    numbered = [{**blank, schema.ROW: i, **row} for i, row in enumerate(rows)]
    return pa.Table.from_pylist(numbered, schema.raw(pa.string(), [pa.field("url", pa.string())]))


def test_rows_are_painted_one_to_one_with_every_canvas_from_one_decode() -> None:
    raw = raw_rows({schema.IMAGE: encoded(noise(30, 40)), schema.TEXT: "x"}, {schema.IMAGE: encoded(noise(40, 30))})
    done = paint_rows(raw, DecodeConfig(), CANVASES)
    assert done.column_names == schema.decoded(raw.schema, [canvas.field for canvas in CANVASES]).names
    assert (
        done.drop_columns([canvas.name for canvas in CANVASES]).to_pylist()
        == raw.drop_columns([schema.IMAGE]).to_pylist()
    )
    for canvas in CANVASES:
        stack = done.column(canvas.name).combine_chunks().to_numpy_ndarray()
        assert np.array_equal(stack[0], paint(noise(30, 40), canvas))
        assert np.array_equal(stack[1], paint(noise(40, 30), canvas))


def test_rejects_and_ends_pass_with_black_canvases() -> None:
    done = paint_rows(
        raw_rows(
            {schema.IMAGE: b"<html>"},
            {schema.STAGE: "source", schema.REASON: "no_image", schema.MESSAGE: "null"},
            {schema.END: True, schema.ROW: 2, schema.MESSAGE: "cut"},
            {schema.IMAGE: None},
        ),
        DecodeConfig(),
        CANVASES,
    )
    assert done.column(schema.STAGE).to_pylist() == [Stage.DECODE, Stage.SOURCE, None, Stage.DECODE]
    assert done.column(schema.REASON).to_pylist() == [Reason.NOT_AN_IMAGE, Reason.NO_IMAGE, None, Reason.EMPTY]
    assert done.column(schema.MESSAGE).to_pylist()[1:3] == ["null", "cut"]
    for canvas in CANVASES:
        assert not done.column(canvas.name).combine_chunks().to_numpy_ndarray().any()


def test_painted_rows_have_the_schema_of_the_contract() -> None:
    raw = raw_rows({schema.IMAGE: encoded(noise(30, 40))})
    expected = schema.decoded(raw.schema, [canvas.field for canvas in CANVASES])
    assert paint_rows(raw, DecodeConfig(), CANVASES).schema.equals(expected)


def test_a_block_without_rows_is_painted() -> None:
    assert paint_rows(raw_rows(), DecodeConfig(), CANVASES).num_rows == 0


def test_a_strip_that_no_canvas_can_hold_is_a_reject() -> None:
    """10,000,000x1 PNG, 10 KB: its shortest edge at 20 pixels would be 200,000,000 pixels long."""
    canvas = Canvas(shortest_edge=224, crop=(224, 224))
    done = paint_rows(raw_rows({schema.IMAGE: encoded(Image.new("1", (10_000_000, 1)))}), DecodeConfig(), [canvas])
    assert done.column(schema.REASON).to_pylist() == [Reason.TOO_LARGE]
