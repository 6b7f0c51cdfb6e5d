"""Embeddings: transformers' own, normalised; texts that are absent, long, repeated or strange."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs import schema
from jobs.demo import scenes
from jobs.models import loading
from jobs.models.texts import TEXTS_PER_CALL
from jobs.models.weights import DEMO_WEIGHTS
from tests.support.checkpoints import column, copy, edit, load, noise, rewrite, spec, tensors

MAX_TOKENS = 64  # what AlignProcessor pads to
TEXTS = ["a red circle", "a large blue star on a gray background", "ring", "Ünïcode, ☃ and \u200b!", "a b c d e f g"]


def embed(texts: list[str | None], **options: Any) -> dict[str, list[Any]]:
    results = load("align", **options)(noise(len(texts)), texts)
    assert not results.non_finite.any()
    return {name: column(results, name) for name in results.columns}


def documented(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """As the documentation of transformers shows it: one batch, every text padded to 64 tokens."""
    transformers, folder = loading.transformers(), DEMO_WEIGHTS / "align"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AlignModel.from_pretrained(folder).eval()
    tokens = tokenizer(texts, padding="max_length", max_length=64, truncation=True, return_tensors="pt")
    pixels = noise(len(texts)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        out = model(pixel_values=pixels, **tokens)
    return out.image_embeds, out.text_embeds


def test_embeddings_are_those_of_transformers() -> None:
    ours, (images, texts) = embed([*TEXTS]), documented(TEXTS)
    for name, theirs in ((schema.IMAGE_EMBEDDING, images), (schema.TEXT_EMBEDDING, texts)):
        assert ((torch.tensor(ours[name]) * theirs).sum(1) > 0.999999).all()


def test_embeddings_have_length_one_and_similarity_is_their_cosine() -> None:
    ours = embed([*TEXTS])
    images, texts = (np.array(ours[name]) for name in (schema.IMAGE_EMBEDDING, schema.TEXT_EMBEDDING))
    assert np.allclose(np.linalg.norm(images, axis=1), 1, atol=1e-6)
    assert np.allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-6)
    assert np.allclose(ours[schema.SIMILARITY], (images * texts).sum(1), atol=1e-6)


@pytest.mark.parametrize("blank", [None, "", " ", "\n\t \u3000"])
def test_a_row_without_text_has_an_image_embedding_and_no_text_columns(blank: str | None) -> None:
    ours, with_text = embed(["a red circle", blank, "ring"]), embed(["a red circle", "a star", "ring"])
    assert ours[schema.TEXT_EMBEDDING][1] is None
    assert ours[schema.SIMILARITY][1] is None
    assert np.allclose(ours[schema.IMAGE_EMBEDDING], with_text[schema.IMAGE_EMBEDDING])
    assert np.allclose(ours[schema.TEXT_EMBEDDING][2], with_text[schema.TEXT_EMBEDDING][2], atol=1e-6)


def test_a_batch_without_any_text_is_no_special_case() -> None:
    ours = embed([None, " "])
    assert ours[schema.TEXT_EMBEDDING] == ours[schema.SIMILARITY] == [None, None]


def test_a_text_of_characters_that_give_no_token_still_has_an_embedding() -> None:
    assert np.isfinite(embed(["\u200b", "☃☃☃", "\x00"])[schema.TEXT_EMBEDDING]).all()


def test_a_long_text_is_cut_at_64_tokens() -> None:
    fits, long = " ".join(["red"] * (MAX_TOKENS - 2)), " ".join(["red"] * 5000)
    ours = embed([fits, long, fits + " star"])[schema.TEXT_EMBEDDING]
    assert ours[0] == ours[1] == ours[2]
    assert ours[0] != embed([fits.removesuffix(" red") + " star"])[schema.TEXT_EMBEDDING][0]


def test_repeated_texts_get_equal_vectors() -> None:
    """COYO repeats a quarter of its texts: each is encoded once per batch."""
    ours = embed(["ring", "a star", "ring", None, "ring"])[schema.TEXT_EMBEDDING]
    assert ours[0] == ours[2] == ours[4] != ours[1]


def test_more_texts_than_one_call_holds_come_back_in_order() -> None:
    texts = [f"{'a ' * (i % 17)}{color} {shape}" for i, (color, shape) in enumerate(_pairs(2 * TEXTS_PER_CALL + 7))]
    ours = np.array(embed([*texts])[schema.TEXT_EMBEDDING])
    for i in (0, 1, TEXTS_PER_CALL, len(texts) - 1):
        assert ours[i] @ np.array(embed([texts[i]])[schema.TEXT_EMBEDDING][0]) > 0.999999


def _pairs(count: int) -> list[tuple[str, str]]:
    pairs = [(color, shape) for color in scenes.COLORS for shape in scenes.SHAPES]
    return (pairs * (count // len(pairs) + 1))[:count]


@pytest.mark.parametrize(("dtype", "error"), [("float16", 3e-7), ("float32", 1e-12)])
def test_embeddings_are_stored_as_the_recipe_says(dtype: str, error: float) -> None:
    stored = load("align", dtype=dtype)(noise(3), [*TEXTS[:3]])
    for name in (schema.IMAGE_EMBEDDING, schema.TEXT_EMBEDDING):
        assert stored.columns[name].type == pa.list_(pa.type_for_alias(dtype), 128)
        ours, exact = (np.array(rows, np.float64) for rows in (column(stored, name), embed([*TEXTS[:3]])[name]))
        cosine = (ours * exact).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(exact, axis=1)
        assert (1 - cosine < error).all()
    assert stored.columns[schema.SIMILARITY].type == pa.float32()


def test_without_text_only_images_are_embedded(tmp_path: Path) -> None:
    folder = copy("align", tmp_path / "align")
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    assert [field.name for field in spec("align", folder, text=False).fields] == [schema.IMAGE_EMBEDDING]
    assert list(load("align", folder, text=False)(noise(2), ["a", None]).columns) == [schema.IMAGE_EMBEDDING]


def test_fewer_positions_than_64_cut_the_text_there(tmp_path: Path) -> None:
    folder = copy("align", tmp_path / "align")
    config = loading.load_config(str(folder), "here").to_dict()["text_config"]
    edit(folder, "config.json", text_config={**config, "max_position_embeddings": 16})
    positions = torch.randn(16, 96)
    rewrite(folder, text_model__embeddings__position_embeddings__weight=positions)
    assert not load("align", folder)(noise(1), ["red " * 100]).non_finite.any()


def test_pooled_outputs_are_what_aligns_towers_give() -> None:
    """Its image tower's pooling, which it does not project; and the first token's state, not BERT's own pooler."""
    ours = embed([*TEXTS], pooled=True)
    transformers, folder = loading.transformers(), DEMO_WEIGHTS / "align"
    model = transformers.AlignModel.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(pixel_values=noise(len(TEXTS)).permute(0, 3, 1, 2).float() / 127.5 - 1, **tokens)
    images, texts = out.vision_model_output.pooler_output, out.text_model_output.last_hidden_state[:, 0]
    assert np.allclose(ours[schema.IMAGE_POOLED], images, rtol=1e-4, atol=1e-4)
    assert np.allclose(ours[schema.TEXT_POOLED], texts, rtol=1e-4, atol=1e-4)
    assert not np.allclose(texts.norm(dim=1), 1, atol=0.1)
    assert spec("align", pooled=True).metadata["pooled"] == {"image": 128, "text": 96, "normalised": False}


def test_pooled_outputs_of_a_row_without_text_are_null_only_for_the_text() -> None:
    ours = embed(["a ring", None], pooled=True)
    assert ours[schema.TEXT_POOLED][1] is None
    assert ours[schema.TEXT_POOLED][0] is not None
    assert len(ours[schema.IMAGE_POOLED][1]) == 128
    assert list(embed([None], pooled=True, text=False)) == [schema.IMAGE_EMBEDDING, schema.IMAGE_POOLED]


def test_a_pooled_number_that_float16_cannot_hold_breaks_the_row(tmp_path: Path) -> None:
    """Infinity in a column of the output would poison whoever averages it."""
    folder = copy("align", tmp_path / "align")
    norm = f"{LAST}weight"
    rewrite(folder, **{norm: tensors(folder)[norm.replace("__", ".")] * 1e7})
    results = {dtype: load("align", folder, dtype, pooled=True)(noise(2), [None, None]) for dtype in FLOATS}
    assert {dtype: each.non_finite.all() for dtype, each in results.items()} == {"float16": True, "float32": False}


FLOATS = ("float16", "float32")
LAST = "vision_model__encoder__blocks__6__projection__project_bn__"
NO_DIRECTION = {
    "texts of length zero": {"text_projection__weight": 0.0, "text_projection__bias": 0.0},
    "texts whose length is infinite": {"text_projection__weight": 1e25},
    "images of length zero": {f"{LAST}weight": 0.0, f"{LAST}bias": 0.0},
}


@pytest.mark.parametrize("case", NO_DIRECTION)
def test_features_without_a_direction_break_the_row(case: str, tmp_path: Path) -> None:
    """Weights that underflow or overflow: vectors of length zero would be stored as embeddings."""
    folder = copy("align", tmp_path / "align")
    old = tensors(folder)
    changes = {name: old[name.replace("__", ".")] * factor for name, factor in NO_DIRECTION[case].items()}
    assert load("align", rewrite(folder, **changes))(noise(2), ["ring", "a star"]).non_finite.all()


def test_the_right_caption_is_the_nearest_of_ten() -> None:
    seen = [scenes.scene(scenes.HELD_OUT + i) for i in range(10)]
    side = [np.asarray(scenes.draw(scene).resize((76, 76), 2))[6:70, 6:70] for scene in seen]
    results = load("align")(torch.from_numpy(np.stack(side)), [scene.caption for scene in seen])
    images, texts = (np.array(column(results, name)) for name in (schema.IMAGE_EMBEDDING, schema.TEXT_EMBEDDING))
    assert ((images @ texts.T).argmax(1) == np.arange(10)).sum() >= 8


def test_a_spec_travels_without_torch() -> None:
    """Every process that decodes or writes unpickles it; importing torch would cost 0.2 GB each."""
    options = {"labels": ("a", "b"), "templates": ("{}",)}
    described = spec("align", pooled=True, zero_shot=options)
    assert pickle.loads(pickle.dumps(described)) == described
    code = "import sys, pickle; pickle.load(sys.stdin.buffer); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], input=pickle.dumps(described)).returncode == 0


def test_metadata_has_the_temperature_of_the_weights() -> None:
    about = spec("align").metadata
    assert 0 < about["temperature"] < 0.5
    assert about["temperature"] != 0.07
    assert (about["dim"], about["dtype"], about["normalised"]) == (128, "float32", True)
