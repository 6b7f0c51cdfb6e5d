"""ViT labels: the most probable classes of an image classifier, and their probabilities."""

from typing import Any

import torch

from jobs import schema
from jobs.config import VitConfig
from jobs.errors import CheckpointError
from jobs.images.canvas import Canvas, Scale
from jobs.models import Model, Results, Spec, loading, vectors
from jobs.models.batching import Placement
from jobs.models.weights import Weights


def describe(config: VitConfig, weights: Weights, folder: str) -> Spec:
    """Load once to prove that the checkpoint is whole. Raises CheckpointError."""
    settings = loading.config(folder, weights.name)
    if not any("ImageClassification" in name for name in settings.architectures or ["ImageClassification"]):
        raise CheckpointError(
            f"{weights.name}: models.vit wants an image classifier, this is a {', '.join(settings.architectures)}",
            "name a checkpoint whose architecture ends in ForImageClassification",
        )
    canvas, scale = loading.pixels(folder, weights.name, settings)
    model = loading.model(loading.transformers().AutoModelForImageClassification, folder, weights.name)
    labels = _labels(settings, weights.name)
    _prove(model, canvas, len(labels), weights.name)
    about = {
        "weights": weights.name,
        "revision": weights.revision,
        "architecture": settings.architectures[0] if settings.architectures else settings.model_type,
        "classes": len(labels),
        "activation": _activation(settings),
    }
    options = {"top_k": min(config.top_k, len(labels)), "min_prob": config.min_prob}
    return Spec("vit", weights, canvas, scale, tuple(schema.labels()), labels, about, options)


@torch.inference_mode()
def _prove(model: Any, canvas: Canvas, classes: int, name: str) -> None:
    """Shapes only, on no device: for ViT-L the numbers would take seconds. Leaves no model behind.

    Raises CheckpointError for a model that does not eat what its processor prepares, or that has other classes.
    """
    hint = "are they of one checkpoint?"
    with loading.complaints(name, "its model and its image processor do not fit", hint):
        logits = model.to("meta")(pixel_values=torch.empty(1, 3, *canvas.size, device="meta")).logits
    if logits.shape != (1, classes):
        raise CheckpointError(f"{name}: gives {tuple(logits.shape)} for an image, and has {classes} labels", hint)


def _labels(settings: Any, name: str) -> tuple[str, ...]:
    """By class index. Where they do not start at 0, no one can say which name is off: refused."""
    names, classes = settings.id2label, range(len(settings.id2label))
    if sorted(names) != list(classes):
        odd = sorted(set(names) - set(classes))
        raise CheckpointError(
            f"{name}: id2label names class {odd[0]}, but its {len(classes)} labels are of classes 0 to {classes[-1]}",
            "correct id2label in its config.json",
        )
    return tuple(names[i] for i in classes)


class Labeller(Model):
    """A loaded classifier."""

    def __init__(self, spec: Spec, folder: str, on: Placement) -> None:
        auto = loading.transformers().AutoModelForImageClassification
        self._model = loading.model(auto, folder, spec.weights.name).to(on.device, on.dtype)
        self._scale = Scaler(spec.scale, on.device, on.dtype)
        self._sigmoid = _activation(self._model.config) == "sigmoid"
        self._top_k, self._min_prob = spec.options["top_k"], spec.options["min_prob"]
        self._classify = on.batched(self._top)

    def prepare(self, texts: list[str | None]) -> None:
        """A classifier does not look at texts."""

    @torch.inference_mode()
    def forward(self, pixels: torch.Tensor, prepared: None) -> tuple[torch.Tensor, ...]:  # noqa: ARG002
        """Class ids [n, top_k], their probabilities, and which rows are broken."""
        return tuple(tensor.cpu() for tensor in self._classify(pixels))

    def _top(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = self._model(pixel_values=self._scale(pixels)).logits.float()
        broken = ~torch.isfinite(logits).all(1)
        probs = logits.sigmoid() if self._sigmoid else logits.softmax(1)
        top, ids = probs.nan_to_num().topk(self._top_k)
        return ids.int(), top, broken

    def columns(self, outputs: tuple[torch.Tensor, ...]) -> Results:
        ids, top, broken = (tensor.numpy() for tensor in outputs)
        kept = top >= self._min_prob
        columns = {schema.LABELS: vectors.lists(ids, kept), schema.LABEL_PROBS: vectors.lists(top, kept)}
        return Results(columns, broken)


class Scaler:
    """uint8 [n, height, width, 3] to [n, 3, height, width] as the model was trained on; float32, then rounded."""

    def __init__(self, scale: Scale, device: torch.device, dtype: torch.dtype) -> None:
        self._factor = torch.tensor(scale.factor, dtype=torch.float32, device=device)
        self._offset = torch.tensor(scale.offset, dtype=torch.float32, device=device)
        self._device, self._dtype = device, dtype

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        values = pixels.to(self._device, non_blocking=True).float().mul_(self._factor).add_(self._offset)
        return values.permute(0, 3, 1, 2).to(self._dtype)


def _activation(settings: Any) -> str:
    return "sigmoid" if settings.problem_type == "multi_label_classification" else "softmax"
