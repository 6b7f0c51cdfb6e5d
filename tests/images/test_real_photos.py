"""Real photos give what transformers gives; real odd files give a picture or a reason."""

import io
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jobs import schema
from jobs.config import DecodeConfig
from jobs.errors import Reason, Reject
from jobs.images.canvas import paint
from jobs.images.decode import decode
from jobs.models import loading
from jobs.models.weights import DEMO_WEIGHTS
from tests.support.checkpoints import column, load, spec

REFUSED_BY_PILLOW = "odd/gen-bitrot.png"  # listed as decoding; Pillow raises the first time it is loaded
SAYS = {
    "gen-zero-bytes.jpg": Reason.EMPTY, "empty.heic": Reason.EMPTY,
    "gen-html-404.jpg": Reason.NOT_AN_IMAGE, "gen-json-error.jpg": Reason.NOT_AN_IMAGE,
    "gen-pdf.jpg": Reason.NOT_AN_IMAGE, "gen-mp4.jpg": Reason.NOT_AN_IMAGE, "gen-gzip.jpg": Reason.NOT_AN_IMAGE,
    "multi.heic": Reason.UNSUPPORTED_FORMAT, "plain.jxl": Reason.UNSUPPORTED_FORMAT,
    "vector.svg": Reason.UNSUPPORTED_FORMAT, "gen-svg.jpg": Reason.UNSUPPORTED_FORMAT,
    "truncated-real.jpg": Reason.TRUNCATED, "gen-trunc.png": Reason.TRUNCATED, "gen-trunc.webp": Reason.TRUNCATED,
    "broken.png": Reason.CORRUPT, "zero-width.gif": Reason.CORRUPT, "gen-bitrot.png": Reason.CORRUPT,
    "bomb.gif": Reason.TOO_LARGE, "gen-bomb-20000.png": Reason.TOO_LARGE, "bomb-16383.png": Reason.TOO_LARGE,
}  # fmt: skip


def listed(photos: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (photos / name).read_text().splitlines()]


def outcome(path: Path, config: DecodeConfig = DecodeConfig()) -> Image.Image | Reject:  # noqa: B008 - frozen
    try:
        return decode(path.read_bytes(), config).image
    except Reject as reject:
        return reject


@cache
def plain(photos: Path) -> dict[Path, str]:
    """Photos without transparency and EXIF, which documentation opens as the job does, and their captions."""
    paths = {photos / row["file"]: str(row["text"]) for row in listed(photos, "captions.jsonl")}
    opened = {path: Image.open(path) for path in paths}
    kept = [path for path, image in opened.items() if not image.has_transparency_data and not image.getexif()]
    assert len(kept) > 100
    return {path: paths[path] for path in kept}


@cache
def as_documented(photos: Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in plain(photos)]


def canvases(photos: Path, kind: str) -> torch.Tensor:
    canvas = spec(kind).canvas
    return torch.from_numpy(
        np.stack([paint(decode(path.read_bytes(), DecodeConfig()).image, canvas) for path in plain(photos)])
    )


def processor(kind: str) -> Any:
    return loading.transformers().AutoImageProcessor.from_pretrained(DEMO_WEIGHTS / kind, backend="pil")


@pytest.mark.parametrize("kind", ["vit", "align"])
def test_pixels_equal_transformers_bit_for_bit(photos: Path, kind: str) -> None:
    images = as_documented(photos)
    theirs = processor(kind)(images=images, return_tensors="np", do_rescale=False, do_normalize=False)["pixel_values"]
    assert np.array_equal(canvases(photos, kind).numpy().transpose(0, 3, 1, 2), theirs)


def test_labels_equal_plain_transformers(photos: Path) -> None:
    images = as_documented(photos)
    model = loading.transformers().AutoModelForImageClassification.from_pretrained(DEMO_WEIGHTS / "vit").eval()
    with torch.no_grad():
        probs, ids = model(**processor("vit")(images=images, return_tensors="pt")).logits.softmax(1).topk(5)
    results = load("vit")(canvases(photos, "vit"), [None] * len(images))
    assert column(results, schema.LABELS) == ids.tolist()
    assert np.allclose(column(results, schema.LABEL_PROBS), probs.numpy(), atol=1e-5)


def test_embeddings_equal_plain_transformers(photos: Path) -> None:
    transformers, images, texts = loading.transformers(), as_documented(photos), list(plain(photos).values())
    model = transformers.AlignModel.from_pretrained(DEMO_WEIGHTS / "align").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO_WEIGHTS / "align")
    align = transformers.AlignProcessor(processor("align"), tokenizer)
    inputs = align(text=texts, images=images, padding="max_length", max_length=64, truncation=True, return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs)
    results = load("align", dtype="float16")(canvases(photos, "align"), [*texts])
    for name, theirs in ((schema.IMAGE_EMBEDDING, out.image_embeds), (schema.TEXT_EMBEDDING, out.text_embeds)):
        cosine = torch.cosine_similarity(torch.tensor(column(results, name)), theirs)
        assert cosine.min() > 0.99999
    similarity = (out.image_embeds * out.text_embeds).sum(1)
    assert np.allclose(column(results, schema.SIMILARITY), similarity.numpy(), atol=1e-5)


def test_every_photo_decodes_to_the_size_it_is_listed_with(photos: Path) -> None:
    for row in listed(photos, "captions.jsonl"):
        image = decode((photos / row["file"]).read_bytes(), DecodeConfig()).image
        assert image.size == (row["width"], row["height"]), row["file"]


def test_every_odd_file_decodes_or_is_a_reject(photos: Path) -> None:
    rows = listed(photos, "odd.jsonl")
    assert len(rows) == 110
    for row in rows:
        result = outcome(photos / row["file"])
        if row["class"] == "decodes" and row["file"] != REFUSED_BY_PILLOW:
            assert isinstance(result, Image.Image), (row["file"], result)
            assert (result.mode, list(result.size)) == ("RGB", row["pillow"]["upright_size"]), row["file"]
        else:
            assert isinstance(result, Reject), row["file"]
            assert result.message


@pytest.mark.parametrize("name", SAYS)
def test_an_odd_file_says_what_is_wrong_with_it(photos: Path, name: str) -> None:
    result = outcome(photos / "odd" / name)
    assert isinstance(result, Reject)
    assert result.reason == SAYS[name]


def test_one_photo_under_all_eight_orientations_is_one_picture(photos: Path) -> None:
    shown = [outcome(photos / "odd" / f"gen-exif-o{i}.jpg") for i in range(1, 9)]
    arrays = [np.asarray(image).astype(int) for image in shown if isinstance(image, Image.Image)]
    assert len(arrays) == 8
    assert max(np.abs(array - arrays[0]).mean() for array in arrays) < 3


def test_every_odd_file_has_an_outcome_under_every_option(photos: Path) -> None:
    config = DecodeConfig(exif_orientation=False, alpha="drop", max_pixels=300_000)
    for row in listed(photos, "odd.jsonl"):
        result = outcome(photos / row["file"], config)
        assert isinstance(result, Reject) or result.width * result.height <= config.max_pixels, row["file"]


def test_a_photo_cut_anywhere_is_a_reject(photos: Path) -> None:
    data = (photos / "photos" / "000-astronaut.jpg").read_bytes()
    for length in range(0, len(data) - 2, 997):
        with pytest.raises(Reject):
            decode(data[:length], DecodeConfig())


def test_postscript_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS to Ghostscript: a stranger's program would run on every worker."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    eps = io.BytesIO()
    Image.new("RGB", (9, 9)).save(eps, "EPS")
    with pytest.raises(Reject, match="PostScript"):
        decode(eps.getvalue(), DecodeConfig())
    assert not (tmp_path / "ran").exists()
