"""The two towers of a dual encoder, and the proof that they are used as their own model uses them."""

from dataclasses import dataclass
from typing import Any

import torch

from jobs.errors import CheckpointError
from jobs.images.canvas import Canvas
from jobs.models import loading, texts
from jobs.models.texts import Reading, Tokenizer
from jobs.models.vectors import unit
from jobs.models.zero_shot import Score

_METHODS = ("get_image_features", "get_text_features")
_PROJECTIONS = ("visual_projection", "text_projection")
_HINT = "name an ALIGN, CLIP or SigLIP checkpoint, or leave the model out with models.align: null"
_SAME = 1 - 1e-5  # cosine of two embeddings that differ by rounding in float32 only
_TOLERANCE = 1e-3  # of logits, up to some 100


def check_kind(settings: Any, name: str) -> None:
    """Raises CheckpointError for a model without two towers, before its weights are read."""
    kind = loading.transformers().MODEL_MAPPING.get(type(settings), None)
    if not all(hasattr(kind, method) for method in _METHODS):
        says = f"models.align wants a dual encoder of images and texts, this is a {settings.model_type}"
        raise CheckpointError(f"{name}: {says}", _HINT)


class Towers:
    """A loaded dual encoder, its projections taken out of it: so what it pools is seen before they are applied.

    ALIGN projects texts only; SigLIP nothing.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._projections = [_taken_out(model, name) for name in _PROJECTIONS]

    def images(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixel values [n, 3, height, width] to unit vectors and what was pooled, float32 [n, dim] each."""
        pooled = self._model.get_image_features(pixel_values=values).pooler_output
        return unit(self._projections[0](pooled)), pooled.float()

    def texts(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids [n, length], and where a mask is wanted 1 for tokens and 0 for padding, to the same."""
        pooled = self._model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        return unit(self._projections[1](pooled)), pooled.float()


def _taken_out(model: Any, name: str) -> torch.nn.Module:
    projection = getattr(model, name, None)
    if not isinstance(projection, torch.nn.Module):
        return torch.nn.Identity()
    setattr(model, name, torch.nn.Identity())
    return projection


@dataclass(frozen=True)
class Traits:
    """Lengths of a model's vectors, and how it reads; None where it reads nothing."""

    dim: int
    image_pooled: int
    text_pooled: int
    reading: Reading | None


@torch.inference_mode()
def prove(model: Any, score: Score, canvas: Canvas, folder: str | None, name: str) -> Traits:
    """Noise and two texts through the model's own forward() and through its Towers: the logits are the same.

    Without a folder, whose tokenizer reads the texts, only what there is for images. Raises CheckpointError for a
    model that scores images and texts in another way than by the cosine of two vectors.
    """
    values = torch.randn(1, 3, *canvas.size, generator=torch.Generator().manual_seed(0))
    with loading.complaints(name, "cannot be used as a dual encoder", _HINT):
        if folder is None:
            images, pooled = Towers(model).images(values)
            return Traits(images.shape[1], pooled.shape[1], 0, None)
        tokenizer = texts.load(folder, name, model.config)
        longest = texts.longest(tokenizer, model.config)
        sentences = ["a photo", "a photo of " * longest]
        (tokens,) = Tokenizer(tokenizer, Reading(longest, padded=True))(sentences).tokens
        theirs = model(pixel_values=values, **dict(zip(texts.INPUTS, tokens, strict=False))).logits_per_image
        towers = Towers(model)
        images, pooled = towers.images(values)
        embedded, text_pooled = towers.texts(*tokens)
        ours = score.logits(images @ embedded.T)
        if bool(((ours - theirs).abs() > _TOLERANCE).any()):
            says = f"{type(model).__name__} gives logits {theirs.tolist()}, cosines of its embeddings {ours.tolist()}"
            raise CheckpointError(f"{name}: {says}", _HINT)
        reading = _reading(towers, tokenizer, longest, sentences, embedded)
    if reading is None:
        says = "an embedding of a text depends on the texts beside it"
        raise CheckpointError(f"{name}: {type(model).__name__}: {says}", _HINT)
    return Traits(images.shape[1], pooled.shape[1], text_pooled.shape[1], reading)


def _reading(
    towers: Towers, tokenizer: Any, longest: int, sentences: list[str], together: torch.Tensor
) -> Reading | None:
    """How each sentence alone gets the embedding that it has among others, all of them padded; best without padding."""
    for padded in (False, True):
        reading = Reading(longest, padded)
        alone = [towers.texts(*Tokenizer(tokenizer, reading)([sentence]).tokens[0])[0] for sentence in sentences]
        if not bool(((torch.cat(alone) * together).sum(1) < _SAME).any()):
            return reading
    return None
