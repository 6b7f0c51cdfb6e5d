"""Embeddings of images and texts by a dual encoder (ALIGN, CLIP, SigLIP, ...), L2-normalised, and their cosine."""

from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from jobs import schema
from jobs.config import AlignConfig
from jobs.models import Model, Results, Spec, align, loading, towers, vectors, zero_shot
from jobs.models.batching import FixedSize, MicroBatcher, Placement
from jobs.models.labels import listed
from jobs.models.texts import Groups, Reading, Tokenizer
from jobs.models.towers import Towers
from jobs.models.vit import Scaler
from jobs.models.weights import Weights
from jobs.models.zero_shot import Score, ZeroShot

# What the device gives of an image and of a text, in this order; a job may want less.
_OF_IMAGES = (schema.IMAGE_EMBEDDING, schema.IMAGE_POOLED, schema.ZERO_SHOT_LABELS, schema.ZERO_SHOT_PROBS)
_OF_TEXTS = (schema.TEXT_EMBEDDING, schema.TEXT_POOLED)


def describe(config: AlignConfig, weights: Weights, folder: str, dtype: str) -> Spec:
    """Load once to prove that the checkpoint is whole, and understood. `dtype` is how embeddings are stored.

    Raises CheckpointError, and ConfigError for a list of labels that cannot be read.
    """
    labels = listed(config.zero_shot, weights.storage) if config.zero_shot else ()
    settings = loading.config(folder, weights.name)
    towers.check_kind(settings, weights.name)
    canvas, scale = loading.pixels(folder, weights.name, settings)
    model = loading.model(loading.transformers().AutoModel, folder, weights.name)
    score = Score.of(model, weights.name)
    reads = config.text or config.zero_shot is not None
    traits = towers.prove(model, score, canvas, folder if reads else None, weights.name)
    about = {
        "weights": weights.name,
        "revision": weights.revision,
        "architecture": type(model).__name__,
        "dim": traits.dim,
        "dtype": dtype,
        "normalised": True,
        "temperature": 1 / score.scale,
    }
    # As plain values: unpickling one of these classes would import torch in processes that only decode or write.
    options: dict[str, Any] = {"reading": traits.reading and astuple(traits.reading), "score": astuple(score)}
    if config.pooled:
        about["pooled"] = {"image": traits.image_pooled, "text": traits.text_pooled, "normalised": False}
    if config.zero_shot:
        options |= {"templates": config.zero_shot.templates, "top_k": min(config.zero_shot.top_k, len(labels))}
        about["zero_shot"] = {
            "classes": len(labels),
            "templates": list(config.zero_shot.templates),
            "activation": "sigmoid" if score.sigmoid else "softmax",
            "bias": score.bias,
        }
    return Spec("align", weights, canvas, scale, _fields(config, traits, dtype), labels, about, options)


def _fields(config: AlignConfig, traits: towers.Traits, dtype: str) -> tuple[pa.Field, ...]:
    stored = pa.type_for_alias(dtype)
    fields = [schema.embedding(schema.IMAGE_EMBEDDING, traits.dim, stored)]
    if config.pooled:
        fields.append(schema.embedding(schema.IMAGE_POOLED, traits.image_pooled, stored))
    if config.zero_shot:
        fields += schema.zero_shot()
    if config.text:
        fields += [schema.embedding(schema.TEXT_EMBEDDING, traits.dim, stored)]
        fields += [schema.embedding(schema.TEXT_POOLED, traits.text_pooled, stored)] * config.pooled
        fields.append(schema.similarity())
    return tuple(fields)


@dataclass(frozen=True)
class Texts:
    """A batch's texts: bool [n] where there is none, the distinct others as tokens, and which of those each row has."""

    absent: vectors.Array
    groups: Groups | None
    chosen: torch.Tensor


@dataclass(frozen=True)
class Embedded:
    """Columns of a batch of n rows as float32 or int32, [n] or [n, width], and bool [n] where there is no text."""

    columns: dict[str, torch.Tensor]
    absent: vectors.Array | None


class Embedder(Model):
    """A loaded dual encoder, and the embeddings of the recipe's labels."""

    def __init__(self, spec: Spec, folder: str, on: Placement) -> None:
        model = loading.model(loading.transformers().AutoModel, folder, spec.weights.name)
        if model.config.model_type == "align":
            align.optimise_for_inference(model)
        self._towers = Towers(model.to(on.device, on.dtype))
        self._scale = Scaler(spec.scale, on.device, on.dtype)
        self._device = on.device
        self._types = {field.name: field.type for field in spec.fields}
        self._tokenizer = None
        if reading := spec.options["reading"]:
            self._tokenizer = Tokenizer.of(folder, spec.weights.name, model.config, Reading(*reading))
        self._texts = MicroBatcher(self._of_texts, FixedSize())
        self._zero_shot: ZeroShot | None = None
        if spec.labels:
            labels = zero_shot.embed(spec.labels, spec.options["templates"], self._of_sentences)
            self._zero_shot = ZeroShot(labels, Score(*spec.options["score"]), spec.options["top_k"])
        self._images = on.batched(self._of_images)

    def prepare(self, texts: list[str | None]) -> Texts | None:
        """Each distinct text of the batch once, tokenised, in groups of about one length."""
        if self._tokenizer is None or schema.TEXT_EMBEDDING not in self._types:
            return None
        absent = np.array([text is None or not text.strip() for text in texts])
        present = [text for text, none in zip(texts, absent, strict=True) if text and not none]
        place = {text: i for i, text in enumerate(dict.fromkeys(present))}
        groups = self._tokenizer(list(place)) if place else None
        return Texts(absent, groups, torch.tensor([place[text] for text in present], dtype=torch.int64))

    @torch.inference_mode()
    def forward(self, pixels: torch.Tensor, prepared: Texts | None) -> Embedded:
        """Every column of the batch; a row without text has zeros where there would be something of it."""
        columns = dict(zip(self._wanted(_OF_IMAGES), self._images(pixels), strict=True))
        if prepared is None:
            return Embedded({name: tensor.cpu() for name, tensor in columns.items()}, None)
        names = self._wanted(_OF_TEXTS)
        for name in names:
            columns[name] = torch.zeros(len(pixels), self._types[name].list_size, device=self._device)
        if prepared.groups:
            present = torch.from_numpy(np.flatnonzero(~prepared.absent)).to(self._device)
            for name, encoded in zip(names, self._encoded(prepared.groups), strict=True):
                columns[name][present] = encoded[prepared.chosen.to(self._device)]
        cosines = (columns[schema.IMAGE_EMBEDDING] * columns[schema.TEXT_EMBEDDING]).sum(1)
        columns[schema.SIMILARITY] = cosines
        return Embedded({name: tensor.cpu() for name, tensor in columns.items()}, prepared.absent)

    def _wanted(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name in self._types]

    def _of_images(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """_OF_IMAGES, those that are wanted."""
        images, pooled = self._towers.images(self._scale(pixels))
        of_labels = self._zero_shot(images) if self._zero_shot else ()
        return (images, pooled, *of_labels) if schema.IMAGE_POOLED in self._types else (images, *of_labels)

    def _of_texts(self, *tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """_OF_TEXTS, those that are wanted."""
        embedded = self._towers.texts(*(each.to(self._device) for each in tokens))
        return embedded if schema.TEXT_POOLED in self._types else embedded[:1]

    def _encoded(self, groups: Groups) -> list[torch.Tensor]:
        """What _of_texts gives, for texts in the order in which the tokenizer was given them."""
        parts = zip(*(self._texts(*tokens) for tokens in groups.tokens), strict=True)
        return [torch.cat(part)[groups.places.to(self._device)] for part in parts]

    @torch.inference_mode()
    def _of_sentences(self, sentences: list[str]) -> torch.Tensor:
        assert self._tokenizer is not None
        return self._encoded(self._tokenizer(sentences))[0]

    def columns(self, outputs: Embedded) -> Results:
        arrays: dict[str, pa.Array] = {}
        broken = np.zeros(len(outputs.columns[schema.IMAGE_EMBEDDING]), bool)
        for name, tensor in outputs.columns.items():
            values, kind = tensor.numpy(), self._types[name]
            if name == schema.SIMILARITY:
                arrays[name] = pa.array(values, kind, mask=outputs.absent)
            elif pa.types.is_list(kind):
                arrays[name] = vectors.lists(values)
            else:
                values = vectors.rounded(values, kind)
                broken |= ~np.isfinite(values).all(1)
                arrays[name] = vectors.fixed(values, outputs.absent if name in _OF_TEXTS else None, kind)
        return Results(arrays, broken)
