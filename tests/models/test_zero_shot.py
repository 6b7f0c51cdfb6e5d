"""Labels of the recipe's own: transformers' pipeline with one template, the usual average with several."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import schema
from jobs.config import ZeroShotConfig
from jobs.demo import scenes
from jobs.errors import CheckpointError, ConfigError, StorageError
from jobs.images.canvas import paint
from jobs.models import loading
from jobs.models.labels import load_labels
from jobs.models.weights import DEMO_WEIGHTS
from jobs.models.zero_shot import LogitHead, ZeroShotClassifier
from jobs.storage import Storage
from tests.support.checkpoints import column, copy, held, load, noise, rewrite, spec, tensors

LABELS = scenes.LABELS[:20]
TEMPLATES = tuple(f"a small red circle {side} a large {{}} on a gray background" for side in scenes.SIDES)


def of(labels: tuple[str, ...], **options: Any) -> dict[str, Any]:
    return {"text": False, "zero_shot": {"labels": labels, **options}}


def tiles(count: int) -> tuple[list[Any], torch.Tensor]:
    """Scenes never trained on, and their canvases."""
    images = [scenes.draw(scenes.scene(scenes.HELD_OUT + i)) for i in range(count)]
    return images, torch.from_numpy(np.stack([paint(image, spec("align").canvas) for image in images]))


@pytest.mark.parametrize("template", [None, "a large {}"])
def test_one_template_gives_what_transformers_pipeline_gives(template: str | None) -> None:
    """Its default template is ours; it rounds nothing, and sorts all labels."""
    transformers, folder = loading.transformers(), DEMO_WEIGHTS / "align"
    config = transformers.AutoConfig.from_pretrained(folder)
    pipeline = transformers.pipeline(
        "zero-shot-image-classification",
        model=str(folder),
        image_processor=transformers.AutoImageProcessor.from_pretrained(folder, config=config, backend="pil"),
    )
    images, canvases = tiles(6)
    how = {"hypothesis_template": template} if template else {}
    theirs = [pipeline(image, candidate_labels=list(LABELS), **how) for image in images]
    options = {"templates": (template,)} if template else {}
    ours = load("align", **of(LABELS, top_k=20, **options))(canvases, [None] * 6)
    assert [[LABELS[i] for i in ids] for ids in column(ours, schema.ZERO_SHOT_LABELS)] == [
        [each["label"] for each in row] for row in theirs
    ]
    assert np.allclose(
        column(ours, schema.ZERO_SHOT_PROBS), [[each["score"] for each in row] for row in theirs], rtol=1e-4, atol=1e-7
    )


def test_templates_are_averaged_as_unit_vectors() -> None:
    """Each sentence's embedding of length one, their mean, of length one again; then as the model scores."""
    transformers, folder = loading.transformers(), DEMO_WEIGHTS / "align"
    model = transformers.AlignModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    means = []
    with torch.inference_mode():
        for label in LABELS:
            tokens = tokenizer([each.replace("{}", label) for each in TEMPLATES], padding=True, return_tensors="pt")
            features = model.get_text_features(**tokens).pooler_output
            means.append((features / features.norm(dim=1, keepdim=True)).mean(0))
        pixels = noise(4).permute(0, 3, 1, 2).float() / 127.5 - 1
        images = model.get_image_features(pixel_values=pixels).pooler_output
        cosines = torch.nn.functional.cosine_similarity(images[:, None], torch.stack(means)[None], dim=2)
        probs, ids = (cosines / model.temperature).softmax(1).topk(3)
    ours = load("align", **of(LABELS, templates=TEMPLATES, top_k=3))(noise(4), [None] * 4)
    assert column(ours, schema.ZERO_SHOT_LABELS) == ids.tolist()
    assert np.allclose(column(ours, schema.ZERO_SHOT_PROBS), probs, rtol=1e-4)


def test_the_demo_encoder_names_what_it_sees() -> None:
    _, canvases = tiles(20)
    ours = load("align", **of(scenes.LABELS, templates=TEMPLATES, top_k=1))(canvases, [None] * 20)
    named = [scenes.LABELS[ids[0]] for ids in column(ours, schema.ZERO_SHOT_LABELS)]
    seen = [scenes.scene(scenes.HELD_OUT + i).label for i in range(20)]
    assert sum(a == b for a, b in zip(named, seen, strict=True)) >= 17


def test_columns_are_of_the_contracts_types_and_no_more_than_there_are_labels() -> None:
    ours = load("align", **of(LABELS[:3], top_k=10))(noise(4), [None] * 4)
    assert {f.name: f.type for f in schema.zero_shot()}.items() <= {n: a.type for n, a in ours.columns.items()}.items()
    for ids, probs in zip(column(ours, schema.ZERO_SHOT_LABELS), column(ours, schema.ZERO_SHOT_PROBS), strict=True):
        assert sorted(ids) == [0, 1, 2]
        assert probs == sorted(probs, reverse=True)
        assert sum(probs) == pytest.approx(1, abs=1e-5)


def test_labels_beyond_one_call_keep_their_numbers() -> None:
    """Tens of thousands are embedded in parts."""
    many, (_, canvases) = (*(f"thing {i}" for i in range(1100)), *LABELS), tiles(8)
    found = [
        column(
            load("align", **of(labels, templates=TEMPLATES[:1], top_k=1))(canvases, [None] * 8), schema.ZERO_SHOT_LABELS
        )
        for labels in (many, LABELS)
    ]
    assert [[i - 1100 for i in ids] for ids in found[0]] == found[1]


def test_the_recipes_labels_are_the_names_of_the_ids() -> None:
    described = spec("align", **of(LABELS, templates=TEMPLATES))
    assert described.labels == LABELS
    assert described.metadata["zero_shot"] == {
        "classes": 20, "templates": list(TEMPLATES), "activation": "softmax", "bias": 0.0,
    }  # fmt: skip
    assert described.options["top_k"] == 5


def test_a_label_without_an_embedding_is_an_error_and_not_a_reject_for_every_row(tmp_path: Path) -> None:
    folder = copy("align", tmp_path / "align")
    words = tensors(folder)["text_model.embeddings.word_embeddings.weight"].clone()
    words[(folder / "vocab.txt").read_text().split().index("heart")] = float("nan")
    rewrite(folder, text_model__embeddings__word_embeddings__weight=words)
    described = spec("align", folder, **of(LABELS))
    with pytest.raises(CheckpointError, match=r"2 zero-shot labels have no embedding .*, for example 'red heart'"):
        held(described, folder)


def test_a_sigmoid_gives_each_label_a_probability_of_its_own() -> None:
    labels, image = torch.eye(3), torch.tensor([[0.6, 0.8, 0.0]])
    ids, probs = ZeroShotClassifier(labels, LogitHead(10.0, -5.0, sigmoid=True), 2)(image)
    assert ids.tolist() == [[1, 0]]
    assert np.allclose(probs, 1 / (1 + np.exp([[-3.0, -1.0]])))


def written(folder: Path, text: str | bytes) -> ZeroShotConfig:
    path = folder / "labels.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ZeroShotConfig(labels=str(path))


@pytest.mark.parametrize("text", ["a cat\na dog\n", "a cat\r\na dog", "\ufeffa cat\n  a dog \n"])
def test_a_file_has_one_label_a_line(tmp_path: Path, text: str) -> None:
    """Also as Windows writes it: a label that ends in a carriage return is another label."""
    assert load_labels(written(tmp_path, text), Storage()) == ("a cat", "a dog")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "label 1 is empty"),
        ("a\n\nb\n", "label 2 is empty"),
        ("a\nb\n\n", "label 3 is empty"),
        ("cat\ndog\ncat \n", "label 3, 'cat', repeats label 1"),
        ("Käse".encode("latin-1"), "not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_list_of_labels_is_refused(tmp_path: Path, text: str | bytes, says: str) -> None:
    """A label twice halves its probability; an empty one is a sentence about nothing."""
    with pytest.raises(ConfigError, match=f"labels.txt: {says}"):
        load_labels(written(tmp_path, text), Storage())


def test_a_file_may_lie_in_a_bucket_and_must_be_there(bucket: str, tmp_path: Path) -> None:
    Storage().put(f"{bucket}/labels.txt", b"a cat\na dog\n")
    assert load_labels(ZeroShotConfig(labels=f"{bucket}/labels.txt"), Storage()) == ("a cat", "a dog")
    for missing in (f"{bucket}/no.txt", str(tmp_path / "no.txt")):
        with pytest.raises(StorageError, match=r"no\.txt"):
            load_labels(ZeroShotConfig(labels=missing), Storage())
