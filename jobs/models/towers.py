"""The two towers (image encoder and text encoder) of a dual encoder, and a check of them against their own model."""

from dataclasses import dataclass
from typing import Any

import torch

from jobs.errors import CheckpointError
from jobs.images.canvas import Canvas
from jobs.models import loading, texts
from jobs.models.texts import Tokenizer, TokenizerOptions
from jobs.models.vectors import l2_normalise
from jobs.models.zero_shot import LogitHead

_METHODS = ("get_image_features", "get_text_features")
_PROJECTIONS = ("visual_projection", "text_projection")
_HINT = "name an ALIGN, CLIP or SigLIP checkpoint, or leave the model out with models.align: null"
_SAME = 1 - 1e-5  # cosine of two embeddings that differ only by float32 rounding
_TOLERANCE = 1e-3  # of logits, which reach about 100


def check_kind(settings: Any, name: str) -> None:
    """Raise CheckpointError for a model without two towers, before its weights are read."""
    model_class = loading.transformers().MODEL_MAPPING.get(type(settings), None)
    if not all(hasattr(model_class, method) for method in _METHODS):
        message = f"models.align wants a dual encoder of images and texts, this is a {settings.model_type}"
        raise CheckpointError(f"{name}: {message}", _HINT)


class Towers:
    """A loaded dual encoder with its projections detached, so that the pooled outputs are available before them.

    ALIGN has a projection for texts only, SigLIP has none.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._image_projection, self._text_projection = (_detach_projection(model, name) for name in _PROJECTIONS)

    def encode_images(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixel values [n, 3, height, width] -> unit vectors [n, dim] and pooled outputs [n, pooled dim], float32."""
        pooled = self._model.get_image_features(pixel_values=values).pooler_output
        return l2_normalise(self._image_projection(pooled)), pooled.float()

    def encode_texts(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids [n, length] -> the same for texts. `mask` [n, length] is 1 for tokens and 0 for padding."""
        pooled = self._model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        return l2_normalise(self._text_projection(pooled)), pooled.float()


def _detach_projection(model: Any, name: str) -> torch.nn.Module:
    """Return the projection, and leave an Identity in its place in the model."""
    projection = getattr(model, name, None)
    if not isinstance(projection, torch.nn.Module):
        return torch.nn.Identity()
    setattr(model, name, torch.nn.Identity())
    return projection


@dataclass(frozen=True)
class DualEncoderInfo:
    """Dimensions of a model's vectors, and how to tokenise for it; without texts 0 and None."""

    dim: int
    image_pooled: int
    text_pooled: int
    tokenizer: TokenizerOptions | None


@torch.inference_mode()
def probe(model: Any, head: LogitHead, canvas: Canvas, folder: str | None, name: str) -> DualEncoderInfo:
    """Check that Towers and `head` reproduce the logits of the model's own forward(), for noise and two texts.

    `folder` holds the tokenizer; with None only the image tower is run. The model's projections are detached
    afterwards. Raises CheckpointError for a model whose logits are no function of the cosine of two vectors.
    """
    values = torch.randn(1, 3, *canvas.size, generator=torch.Generator().manual_seed(0))
    with loading.checkpoint_errors(name, "cannot be used as a dual encoder", _HINT):
        if folder is None:
            images, pooled = Towers(model).encode_images(values)
            return DualEncoderInfo(images.shape[1], pooled.shape[1], 0, None)
        tokenizer = texts.load_tokenizer(folder, name, model.config)
        max_length = texts.max_length(tokenizer, model.config)
        samples = ["a photo", "a photo of " * max_length]
        (tokens,) = Tokenizer(tokenizer, TokenizerOptions(max_length, pad_to_max_length=True))(samples).tokens
        expected = model(pixel_values=values, **dict(zip(texts.INPUT_NAMES, tokens, strict=False))).logits_per_image
        towers = Towers(model)
        images, pooled = towers.encode_images(values)
        embeddings, text_pooled = towers.encode_texts(*tokens)
        logits = head.logits(images @ embeddings.T)
        if bool(((logits - expected).abs() > _TOLERANCE).any()):
            own, ours = expected.tolist(), logits.tolist()
            message = f"{type(model).__name__} gives logits {own}, cosines of its embeddings give {ours}"
            raise CheckpointError(f"{name}: {message}", _HINT)
        options = _find_padding(towers, tokenizer, max_length, samples, embeddings)
    if options is None:
        message = "the embedding of a text depends on the other texts in its batch"
        raise CheckpointError(f"{name}: {type(model).__name__}: {message}", _HINT)
    return DualEncoderInfo(images.shape[1], pooled.shape[1], text_pooled.shape[1], options)


def _find_padding(
    towers: Towers, tokenizer: Any, max_length: int, samples: list[str], batched: torch.Tensor
) -> TokenizerOptions | None:
    """Find the padding mode in which a text embeds the same alone as in a padded batch; prefer no padding.

    `batched` holds the embeddings of `samples` in the padded batch, float32 [samples, dim].
    """
    for pad_to_max_length in (False, True):
        options = TokenizerOptions(max_length, pad_to_max_length)
        alone = [towers.encode_texts(*Tokenizer(tokenizer, options)([text]).tokens[0])[0] for text in samples]
        if not bool(((torch.cat(alone) * batched).sum(1) < _SAME).any()):
            return options
    return None
