"""Label images with a classifier such as ViT: the most probable classes and their probabilities."""

from typing import Any

import torch

from jobs import schema
from jobs.config import VitConfig
from jobs.errors import CheckpointError
from jobs.images.canvas import Canvas, Scale
from jobs.models import Model, Results, Spec, loading, vectors
from jobs.models.batching import InferenceOptions
from jobs.models.weights import Weights


def describe(config: VitConfig, weights: Weights, folder: str) -> Spec:
    """Load the checkpoint in `folder` once, check that it is a complete classifier, and describe it.

    Raises CheckpointError.
    """
    settings = loading.load_config(folder, weights.name)
    if not any("ImageClassification" in name for name in settings.architectures or ["ImageClassification"]):
        raise CheckpointError(
            f"{weights.name}: models.vit wants an image classifier, this is a {', '.join(settings.architectures)}",
            "name a checkpoint whose architecture ends in ForImageClassification",
        )
    canvas, scale = loading.load_canvas_and_scale(folder, weights.name, settings)
    model = loading.load_model(loading.transformers().AutoModelForImageClassification, folder, weights.name)
    labels = _labels(settings, weights.name)
    _check_shapes(model, canvas, len(labels), weights.name)
    metadata = {
        "weights": weights.name,
        "revision": weights.revision,
        "architecture": settings.architectures[0] if settings.architectures else settings.model_type,
        "classes": len(labels),
        "activation": _activation(settings),
    }
    options = {"top_k": min(config.top_k, len(labels)), "min_prob": config.min_prob}
    return Spec("vit", weights, canvas, scale, tuple(schema.labels()), labels, metadata, options)


@torch.inference_mode()
def _check_shapes(model: Any, canvas: Canvas, classes: int, name: str) -> None:
    """Run the model on the meta device, which computes shapes only; ViT-L on the CPU would take seconds.

    The model has no weights afterwards. Raises CheckpointError for a model that does not accept its processor's
    pixels, or has another number of classes.
    """
    hint = "check that both are from the same checkpoint"
    with loading.checkpoint_errors(name, "its model and its image processor do not fit", hint):
        logits = model.to("meta")(pixel_values=torch.empty(1, 3, *canvas.size, device="meta")).logits
    if logits.shape != (1, classes):
        raise CheckpointError(f"{name}: gives {tuple(logits.shape)} for an image, and has {classes} labels", hint)


def _labels(settings: Any, name: str) -> tuple[str, ...]:
    """Class names by index. Refuse names that do not start at class 0: any of them may be shifted."""
    names, classes = settings.id2label, range(len(settings.id2label))
    if sorted(names) != list(classes):
        unexpected = sorted(set(names) - set(classes))
        raise CheckpointError(
            f"{name}: id2label names class {unexpected[0]}, but {len(classes)} labels need classes 0 to {classes[-1]}",
            "correct id2label in its config.json",
        )
    return tuple(names[i] for i in classes)


class ImageClassifier(Model):
    """A loaded image classifier."""

    def __init__(self, spec: Spec, folder: str, options: InferenceOptions) -> None:
        auto = loading.transformers().AutoModelForImageClassification
        self._model = loading.load_model(auto, folder, spec.weights.name).to(options.device, options.dtype)
        self._scale = Scaler(spec.scale, options.device, options.dtype)
        self._sigmoid = _activation(self._model.config) == "sigmoid"
        self._top_k, self._min_prob = spec.options["top_k"], spec.options["min_prob"]
        self._classify = options.micro_batched(self._top_classes)

    def prepare(self, texts: list[str | None]) -> None:
        """Nothing to prepare: a classifier does not use texts."""

    @torch.inference_mode()
    def forward(self, pixels: torch.Tensor, prepared: None) -> tuple[torch.Tensor, ...]:  # noqa: ARG002
        """Return class ids int32 [n, top_k], their probabilities float32 [n, top_k] descending, non_finite bool [n]."""
        return tuple(tensor.cpu() for tensor in self._classify(pixels))

    def _top_classes(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = self._model(pixel_values=self._scale(pixels)).logits.float()
        non_finite = ~torch.isfinite(logits).all(1)
        probs = logits.sigmoid() if self._sigmoid else logits.softmax(1)
        top, ids = probs.nan_to_num().topk(self._top_k)
        return ids.int(), top, non_finite

    def to_results(self, outputs: tuple[torch.Tensor, ...]) -> Results:
        """Convert to Arrow lists, without the classes below min_prob."""
        ids, top, non_finite = (tensor.numpy() for tensor in outputs)
        kept = top >= self._min_prob
        columns = {schema.LABELS: vectors.list_array(ids, kept), schema.LABEL_PROBS: vectors.list_array(top, kept)}
        return Results(columns, non_finite)


class Scaler:
    """uint8 [n, height, width, 3] -> `dtype` [n, 3, height, width], the model's input; computed in float32."""

    def __init__(self, scale: Scale, device: torch.device, dtype: torch.dtype) -> None:
        self._factor = torch.tensor(scale.factor, dtype=torch.float32, device=device)
        self._offset = torch.tensor(scale.offset, dtype=torch.float32, device=device)
        self._device, self._dtype = device, dtype

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        values = pixels.to(self._device, non_blocking=True).float().mul_(self._factor).add_(self._offset)
        return values.permute(0, 3, 1, 2).to(self._dtype)


def _activation(settings: Any) -> str:
    return "sigmoid" if settings.problem_type == "multi_label_classification" else "softmax"
