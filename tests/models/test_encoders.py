"""Other dual encoders give what transformers gives of them, or are refused with the reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jobs import schema
from jobs.errors import CheckpointError
from jobs.images.canvas import Canvas, paint
from jobs.models import loading, towers
from jobs.models.weights import DEMO_WEIGHTS
from jobs.models.zero_shot import LogitHead
from tests.support.architectures import ENCODERS, encoder
from tests.support.checkpoints import column, held, spec

WORK = ["clip", "clip of before 2023", "metaclip 2", "altclip", "chinese clip", "siglip", "siglip 2"]
TEXTS = ["a red star", None, "this is a blue circle, a photo of red", "a photo " * 80, "a red star"]
LABELS = ("red circle", "blue star", "this photo", "a", "of")
REFUSED = {
    "siglip 2 naflex": "Siglip2ImageProcessorPil gives pixel_values, pixel_attention_mask, spatial_shapes; only",
    "aimv2": "Aimv2Model: the embedding of a text depends on the other texts in its batch",
    "flava": "cannot be used as a dual encoder",
}


def pictures(count: int) -> list[Image.Image]:
    noise = np.random.default_rng(0)
    sides = [(40 + 7 * i, 60 - 5 * i) for i in range(count)]
    return [Image.fromarray(noise.integers(0, 256, (h // 8, w // 8, 3), np.uint8)).resize((w, h)) for h, w in sides]


class Documented:
    """As the documentation of transformers shows it; SigLIP's says to pad to the full length."""

    def __init__(self, folder: Path) -> None:
        transformers = loading.transformers()
        config = transformers.AutoConfig.from_pretrained(folder)
        self.processor = transformers.AutoImageProcessor.from_pretrained(folder, config=config, backend="pil")
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModel.from_pretrained(folder).eval()
        positions = config.text_config.max_position_embeddings
        self.padding: dict[str, Any] = {"padding": True, "truncation": True, "max_length": min(512, positions)}
        if config.model_type == "siglip":
            self.padding["padding"] = "max_length"

    @torch.inference_mode()
    def __call__(self, images: list[Image.Image], texts: list[str]) -> Any:
        tokens = self.tokenizer(texts, return_tensors="pt", **self.padding)
        return self.model(**self.processor(images=images, return_tensors="pt"), **tokens)


@pytest.mark.parametrize("name", WORK)
def test_an_encoder_gives_what_transformers_gives(name: str, tmp_path: Path) -> None:
    """Embeddings, pooled outputs and zero-shot labels, in a batch of texts of all lengths."""
    made = encoder(name, tmp_path)
    options = {"labels": LABELS, "templates": ("this is a photo of {}",), "top_k": len(LABELS)}
    described = spec("align", made, pooled=True, zero_shot=options)
    model, documented, images = held(described, made), Documented(made), pictures(5)
    ours = model(torch.from_numpy(np.stack([paint(image, described.canvas) for image in images])), [*TEXTS])
    assert not ours.non_finite.any()
    assert {name: array.type for name, array in ours.columns.items()} == {f.name: f.type for f in described.fields}
    theirs = documented(images, [text or "a" for text in TEXTS])
    present = [row for row, text in enumerate(TEXTS) if text]
    assert np.allclose(column(ours, schema.IMAGE_EMBEDDING), theirs.image_embeds, atol=2e-5)
    texts = column(ours, schema.TEXT_EMBEDDING)
    assert [row for row, vector in enumerate(texts) if vector] == present
    assert np.allclose([texts[row] for row in present], theirs.text_embeds[present], atol=2e-5)
    for pooled, projection, embedded in (
        (schema.IMAGE_POOLED, "visual_projection", theirs.image_embeds),
        (schema.TEXT_POOLED, "text_projection", theirs.text_embeds[present]),
    ):
        vectors = torch.tensor([vector for vector in column(ours, pooled) if vector])
        with torch.inference_mode():
            projected = getattr(documented.model, projection, torch.nn.Identity())(vectors)
        assert np.allclose(torch.nn.functional.normalize(projected), embedded, atol=2e-5), pooled
        assert ((vectors.norm(dim=1) - 1).abs() > 1e-3).all(), pooled
    logits = documented(images, [f"this is a photo of {label}" for label in LABELS]).logits_per_image
    probs = logits.sigmoid() if described.metadata["zero_shot"]["activation"] == "sigmoid" else logits.softmax(1)
    top, ids = probs.topk(len(LABELS))
    assert np.allclose(column(ours, schema.ZERO_SHOT_PROBS), top, atol=1e-5)
    assert column(ours, schema.ZERO_SHOT_LABELS) == ids.tolist()
    different = documented(images[:3], ["a red star", "this is a blue circle", "of"])  # else any tokens would do
    for vectors in (different.image_embeds, different.text_embeds):
        assert float((vectors @ vectors.T - torch.eye(3)).max()) < 0.999


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_reproduced_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=REFUSED[name]) as caught:
        spec("align", encoder(name, tmp_path))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("wrong", [LogitHead(7.0, 0.0, False), LogitHead(14.0, 0.5, False)], ids=["scale", "bias"])
def test_a_model_that_scores_in_another_way_is_refused(wrong: LogitHead) -> None:
    """Its own forward() decides, whatever its attributes are called."""
    model = loading.load_model(loading.transformers().AutoModel, str(DEMO_WEIGHTS / "align"), "here")
    with pytest.raises(CheckpointError, match=r"here: AlignModel gives logits .*, cosines of its embeddings"):
        towers.probe(model, wrong, Canvas(squash=(64, 64)), str(DEMO_WEIGHTS / "align"), "here")


def test_a_clip_of_which_half_is_missing_is_refused(tmp_path: Path) -> None:
    """What is saved of CLIP for its vision alone has the same model type."""
    folder = encoder("clip", tmp_path)
    clip = loading.transformers().CLIPModel.from_pretrained(folder)
    clip.vision_model.save_pretrained(tmp_path / "vision")
    for file in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / file).rename(tmp_path / "vision" / file)
    with pytest.raises(CheckpointError, match="wants a dual encoder of images and texts, this is a clip_vision_model"):
        spec("align", tmp_path / "vision")


def test_every_encoder_here_is_tested() -> None:
    assert set(WORK) | set(REFUSED) == set(ENCODERS)
