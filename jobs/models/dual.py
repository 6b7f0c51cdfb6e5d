"""ALIGN embeddings of images and texts, L2-normalised, and their cosine."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

from jobs import schema
from jobs.config import AlignConfig
from jobs.errors import CheckpointError
from jobs.models import Model, Results, Spec, loading
from jobs.models.fitting import Fitting
from jobs.models.vit import Scaler
from jobs.models.weights import Weights

MAX_TOKENS = 64  # what ALIGN was trained with, and what its processor pads to
TEXTS_PER_CALL = 64
_FEW = 8  # fewer texts than this are not worth a call of their own
_SHORTEST = 1e-12  # torch's normalize() leaves shorter vectors as they are: next to zero, and no embedding


def describe(config: AlignConfig, weights: Weights, folder: str, dtype: str) -> Spec:
    """Load once to prove that the checkpoint is whole. `dtype` is how embeddings are stored. Raises CheckpointError."""
    settings = loading.config(folder, weights.name)
    if settings.model_type != "align":
        raise CheckpointError(
            f"{weights.name}: models.align wants an ALIGN checkpoint, this is a {settings.model_type}",
            "leave the model out with models.align: null, or name kakaobrain/align-base or one like it",
        )
    canvas, scale = loading.pixels(folder, weights.name, settings)
    model = loading.model(loading.transformers().AlignModel, folder, weights.name)
    if config.text:
        _check_vocabulary(_tokenizer(folder, weights.name), settings.text_config.vocab_size, weights.name)
    stored = pa.type_for_alias(dtype)
    fields = [schema.embedding(schema.IMAGE_EMBEDDING, settings.projection_dim, stored)]
    if config.text:
        fields += [schema.embedding(schema.TEXT_EMBEDDING, settings.projection_dim, stored), schema.similarity()]
    about = {
        "weights": weights.name,
        "revision": weights.revision,
        "architecture": "AlignModel",
        "dim": settings.projection_dim,
        "dtype": dtype,
        "normalised": True,
        "temperature": float(model.temperature.detach()),
    }
    return Spec("align", weights, canvas, scale, tuple(fields), (), about, {"text": config.text})


class Embedder(Model):
    """A loaded dual encoder. The towers come from AlignModel: loaded alone they would be random."""

    def __init__(self, spec: Spec, folder: str, device: torch.device, dtype: torch.dtype) -> None:
        model = loading.model(loading.transformers().AlignModel, folder, spec.weights.name)
        fold_batch_norms(model.vision_model)  # in float32, before it is rounded
        self._model = model.to(device, dtype)
        self._model.vision_model.to(memory_format=torch.channels_last)
        self._scale = Scaler(spec.scale, device, dtype)
        self._device = device
        self._fields = spec.fields
        self._tokenizer = _tokenizer(folder, spec.weights.name) if spec.options["text"] else None
        self._tokenising = threading.Lock()
        self._max_tokens = min(MAX_TOKENS, model.config.text_config.max_position_embeddings)
        self._images, self._texts = Fitting(self._of_images), Fitting(self._of_texts)

    def prepare(self, texts: list[str | None]) -> "Texts | None":
        """Each distinct text of the batch once, tokenised, in groups of about one length."""
        if self._tokenizer is None:
            return None
        absent = np.array([text is None or not text.strip() for text in texts])
        place: dict[str, int] = {}
        for text, none in zip(texts, absent, strict=True):
            if text and not none:
                place.setdefault(text, len(place))
        chosen = [place[text] for text, none in zip(texts, absent, strict=True) if text and not none]
        ids = self._tokenised(list(place)) if place else []
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        groups = [
            self._tokenizer.pad({"input_ids": [ids[i] for i in order[part]]}, return_tensors="pt")
            for part in groups_of([len(ids[i]) for i in order])
        ]
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return Texts(absent, groups, torch.from_numpy(back[chosen]))

    def _tokenised(self, texts: list[str]) -> list[list[int]]:
        """One thread at a time: the tokenizer keeps its truncation as state, and refuses to change it while in use."""
        assert self._tokenizer is not None
        with self._tokenising:
            ids: list[list[int]] = self._tokenizer(texts, truncation=True, max_length=self._max_tokens)["input_ids"]
        return ids

    @torch.inference_mode()
    def forward(self, pixels: torch.Tensor, prepared: "Texts | None") -> tuple[Any, ...]:
        """Image vectors [n, dim], then text vectors, cosines and which texts are absent; float32, normalised."""
        (images,) = self._images(pixels)
        if prepared is None:
            return (images.cpu(),)
        texts = torch.zeros_like(images)
        if prepared.groups:
            encoded = [self._texts(g["input_ids"], g["attention_mask"])[0] for g in prepared.groups]
            present = torch.from_numpy(np.flatnonzero(~prepared.absent)).to(self._device)
            texts[present] = torch.cat(encoded)[prepared.chosen.to(self._device)]
        return images.cpu(), texts.cpu(), (images * texts).sum(1).cpu(), prepared.absent

    def _of_images(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (_unit(self._model.get_image_features(pixel_values=self._scale(pixels)).pooler_output),)

    def _of_texts(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tokens = {"input_ids": ids.to(self._device), "attention_mask": mask.to(self._device)}
        return (_unit(self._model.get_text_features(**tokens).pooler_output),)

    def columns(self, outputs: tuple[Any, ...]) -> Results:
        images, *rest = outputs
        broken = ~torch.isfinite(images).all(1).numpy()
        columns = {schema.IMAGE_EMBEDDING: _vectors(images.numpy(), None, self._fields[0])}
        if rest:
            texts, cosines, absent = rest
            broken |= ~torch.isfinite(texts).all(1).numpy()
            columns[schema.TEXT_EMBEDDING] = _vectors(texts.numpy(), absent, self._fields[1])
            columns[schema.SIMILARITY] = pa.array(cosines.numpy(), pa.float32(), mask=absent)
        return Results(columns, broken)


@dataclass(frozen=True)
class Texts:
    """A batch's texts: bool [n] where there is none, token groups, and each text's place among all groups' rows."""

    absent: "np.ndarray[Any, np.dtype[np.bool_]]"
    groups: list[Any]
    chosen: torch.Tensor


def groups_of(lengths: Sequence[int]) -> list[slice]:
    """Ascending lengths, cut where padding to a group's last would cost more than a call: at most a quarter longer
    than its first, when there are a few, and never more than TEXTS_PER_CALL."""
    groups: list[slice] = []
    start = 0
    for i, length in enumerate(lengths):
        long, many = length > 1.25 * lengths[start], i - start >= _FEW
        if i > start and ((long and many) or i - start == TEXTS_PER_CALL):
            groups.append(slice(start, i))
            start = i
    return [*groups, slice(start, len(lengths))] if lengths else []


def fold_batch_norms(module: torch.nn.Module) -> None:
    """Each batch norm into the convolution before it: the same function, a third of EfficientNet's memory traffic."""
    for parent in list(module.modules()):
        children = list(parent.named_children())
        for (name, conv), (after, norm) in pairwise(children):
            if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, after, torch.nn.Identity())


def _unit(features: torch.Tensor) -> torch.Tensor:
    """float32 rows of length one; NaN where a row is too short or too long to have a direction."""
    features = features.float()
    length = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / torch.where((length > _SHORTEST) & length.isfinite(), length, torch.nan)


def _vectors(values: "np.ndarray[Any, Any]", absent: "np.ndarray[Any, Any] | None", field: pa.Field) -> pa.Array:
    flat = pa.array(values.astype(field.type.value_type.to_pandas_dtype()).ravel())
    mask = None if absent is None or not absent.any() else pa.array(absent)
    return pa.FixedSizeListArray.from_arrays(flat, type=field.type, mask=mask)


def _tokenizer(folder: str, name: str) -> Any:
    if not any(Path(folder, file).is_file() for file in ("tokenizer.json", "vocab.txt")):
        # transformers would make one of five pieces, to which every word is unknown
        raise CheckpointError(f"{name}: no tokenizer.json, no vocab.txt there", "models.align.text: false needs none")
    with loading.complaints(name):
        return loading.transformers().AutoTokenizer.from_pretrained(folder)


def _check_vocabulary(tokenizer: Any, most: int, name: str) -> None:
    if len(tokenizer) > most:
        raise CheckpointError(
            f"{name}: its tokenizer has {len(tokenizer)} pieces, its model {most}", "are they of one checkpoint?"
        )
