"""Labels: the same classes and probabilities as transformers gives, cut and sorted as the recipe says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from jobs import schema
from jobs.demo import scenes
from jobs.errors import CheckpointError
from jobs.images.canvas import paint
from jobs.models import loading
from jobs.models.weights import DEMO_WEIGHTS
from tests.support.architectures import CLASSIFIERS, NAFLEX, classifier, processor
from tests.support.checkpoints import column, copy, edit, held, load, noise, rewrite, spec, tensors


def logits(folder: Path) -> torch.Tensor:
    """As the documentation of transformers shows it."""
    transformers = loading.transformers()
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", do_resize=False)
    with torch.no_grad():
        inputs = processor(images=list(noise(6).permute(0, 3, 1, 2)), return_tensors="pt")
        return torch.as_tensor(model(**inputs).logits)


def test_labels_and_probabilities_are_transformers_top_five() -> None:
    results = load("vit")(noise(6), [None] * 6)
    probs, ids = logits(DEMO_WEIGHTS / "vit").softmax(1).topk(5)
    assert column(results, schema.LABELS) == ids.tolist()
    assert np.allclose(column(results, schema.LABEL_PROBS), probs.numpy(), atol=1e-6)
    assert not results.non_finite.any()


def test_probabilities_are_sorted_descending() -> None:
    for probs in column(load("vit", top_k=64)(noise(6), [None] * 6), schema.LABEL_PROBS):
        assert probs == sorted(probs, reverse=True)
        assert sum(probs) == pytest.approx(1, abs=1e-5)


def test_more_labels_than_classes_are_all_classes() -> None:
    described = spec("vit", top_k=1000)
    assert described.options["top_k"] == 64
    for labels in column(load("vit", top_k=1000)(noise(2), [None] * 2), schema.LABELS):
        assert sorted(labels) == list(range(64))


@pytest.mark.parametrize("min_prob", [0.0, 0.01, 0.3, 1.0])
def test_labels_below_min_prob_are_left_out(min_prob: float) -> None:
    everything = column(load("vit", top_k=64)(noise(6), [None] * 6), schema.LABEL_PROBS)
    kept = column(load("vit", top_k=64, min_prob=min_prob)(noise(6), [None] * 6), schema.LABEL_PROBS)
    assert kept == [[prob for prob in probs if prob >= min_prob] for probs in everything]


def test_a_row_may_keep_no_label_at_all() -> None:
    results = load("vit", min_prob=1.0)(noise(3), [None] * 3)
    assert column(results, schema.LABELS) == [[], [], []]
    assert not results.non_finite.any()


def test_a_multi_label_classifier_gives_sigmoids(tmp_path: Path) -> None:
    folder = edit(copy("vit", tmp_path / "vit"), "config.json", problem_type="multi_label_classification")
    assert spec("vit", folder).metadata["activation"] == "sigmoid"
    probs, ids = logits(folder).sigmoid().topk(3)
    results = load("vit", folder, top_k=3)(noise(6), [None] * 6)
    assert column(results, schema.LABELS) == ids.tolist()
    assert np.allclose(column(results, schema.LABEL_PROBS), probs.numpy(), atol=1e-6)


def test_columns_are_of_the_contracts_types() -> None:
    results = load("vit")(noise(2), [None] * 2)
    assert {name: array.type for name, array in results.columns.items()} == {f.name: f.type for f in schema.labels()}


def test_the_demo_classifier_names_what_it_sees() -> None:
    described, model = spec("vit"), load("vit", top_k=1)
    seen = [scenes.scene(scenes.HELD_OUT + i) for i in range(20)]
    canvases = np.stack([np.asarray(scenes.draw(scene).resize((64, 64), 2)) for scene in seen])
    labels = column(model(torch.from_numpy(canvases), [None] * 20), schema.LABELS)
    right = [described.labels[label[0]] == scene.label for label, scene in zip(labels, seen, strict=True)]
    assert sum(right) >= 17


def test_one_nan_class_breaks_the_row_and_raises_nothing(tmp_path: Path) -> None:
    folder = copy("vit", tmp_path / "vit")
    bias = tensors(folder)["classifier.bias"].clone()
    bias[7] = float("nan")
    results = load("vit", rewrite(folder, classifier__bias=bias))(noise(3), [None] * 3)
    assert results.non_finite.tolist() == [True] * 3


def test_metadata_describes_the_model() -> None:
    described = spec("vit")
    assert described.metadata["architecture"] == "ViTForImageClassification"
    assert described.metadata["classes"] == len(described.labels) == 64
    assert described.metadata["activation"] == "softmax"
    assert described.labels == scenes.LABELS
    assert described.metadata["revision"].startswith("sha256:")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_any_classifier_gives_what_transformers_gives(name: str, tmp_path: Path) -> None:
    """Each with the image processor that its makers published it with: canvas, scale and logits together."""
    folder = classifier(name, tmp_path)
    transformers = loading.transformers()
    config = transformers.AutoConfig.from_pretrained(folder)
    images = transformers.AutoImageProcessor.from_pretrained(folder, config=config, backend="pil")
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    seen = [scenes.draw(scenes.scene(seed)) for seed in range(3)]
    with torch.inference_mode():
        probs, ids = model(**images(images=seen, return_tensors="pt")).logits.softmax(1).topk(7)
    described = spec("vit", folder, top_k=7)
    canvases = torch.from_numpy(np.stack([paint(image, described.canvas) for image in seen]))
    ours = held(described, folder)(canvases, [None] * 3)
    assert column(ours, schema.LABELS) == ids.tolist()
    assert np.allclose(column(ours, schema.LABEL_PROBS), probs, atol=1e-5)
    assert described.labels == tuple(f"class {i}" for i in range(7))


def naflex(to: Path) -> Path:
    processor(*NAFLEX).save_pretrained(classifier("siglip", to))
    return to


def of_another_size(to: Path) -> Path:
    processor("vit", "ViT", {"size": {"height": 64, "width": 64}}).save_pretrained(classifier("vit-b", to))
    return to


def colours(to: Path) -> Path:
    processor("imagegpt", "ImageGPT", {"clusters": [[0.0, 0.0, 0.0]] * 8}).save_pretrained(classifier("vit-b", to))
    return to


UNFIT = {
    "patches, as many as an image has": (naflex, "Siglip2ImageProcessorPil gives pixel_values, pixel_attention_mask"),
    "pixels of another size": (of_another_size, r"do not fit: Input image size \(64\*64\) doesn't match model"),
    "colours by number": (colours, "ImageGPTImageProcessorPil gives input_ids; only pixel_values"),
}


@pytest.mark.parametrize(("make", "says"), UNFIT.values(), ids=UNFIT)
def test_a_classifier_with_other_inputs_is_refused(make: Callable[[Path], Path], says: str, tmp_path: Path) -> None:
    """In the plan, not by the first actor an hour later."""
    with pytest.raises(CheckpointError, match=says):
        spec("vit", make(tmp_path))


def test_no_mask_stands_before_attention_when_a_model_is_compiled() -> None:
    """With one, torch computes attention in float32, in three steps: transformers 5.17 made one of nothing, and ViT-L
    ran at a third of its speed on an H200."""
    masks: list[Any] = []

    def seen(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        attention = [node for node in graph.graph.nodes if "scaled_dot_product" in str(node.target)]
        masks.extend(node.kwargs.get("attn_mask") for node in attention)
        return graph.forward

    compiled: Any = torch.compile(cast(Any, load("vit"))._top_classes, backend=seen, dynamic=False)
    with torch.inference_mode():
        compiled(noise(2))
    torch.compiler.reset()
    assert masks
    assert set(masks) == {None}
