"""Embed images and texts with a dual encoder (ALIGN, CLIP, SigLIP, ...).

Embeddings are L2-normalised. A row's similarity is the cosine of its two embeddings.
"""

from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from jobs import schema
from jobs.config import AlignConfig
from jobs.models import Model, Results, Spec, align, loading, towers, vectors, zero_shot
from jobs.models.batching import FixedSize, InferenceOptions, MicroBatcher
from jobs.models.labels import load_labels
from jobs.models.texts import TokenGroups, Tokenizer, TokenizerOptions
from jobs.models.towers import Towers
from jobs.models.vit import Scaler
from jobs.models.weights import Weights
from jobs.models.zero_shot import LogitHead, ZeroShotClassifier

# Columns that the device computes from images and from texts, in this order; the recipe may leave out some.
_IMAGE_COLUMNS = (schema.IMAGE_EMBEDDING, schema.IMAGE_POOLED, schema.ZERO_SHOT_LABELS, schema.ZERO_SHOT_PROBS)
_TEXT_COLUMNS = (schema.TEXT_EMBEDDING, schema.TEXT_POOLED)


def describe(config: AlignConfig, weights: Weights, folder: str, dtype: str) -> Spec:
    """Load the checkpoint in `folder` once, check that it is complete and works as a dual encoder, and describe it.

    `dtype` is the Arrow type in which embeddings are stored. Raises CheckpointError; ConfigError or StorageError for
    a file of labels that cannot be read.
    """
    labels = load_labels(config.zero_shot, weights.storage) if config.zero_shot else ()
    settings = loading.load_config(folder, weights.name)
    towers.check_kind(settings, weights.name)
    canvas, scale = loading.load_canvas_and_scale(folder, weights.name, settings)
    model = loading.load_model(loading.transformers().AutoModel, folder, weights.name)
    head = LogitHead.from_model(model, weights.name)
    uses_text = config.text or config.zero_shot is not None
    info = towers.probe(model, head, canvas, folder if uses_text else None, weights.name)
    metadata = {
        "weights": weights.name,
        "revision": weights.revision,
        "architecture": type(model).__name__,
        "dim": info.dim,
        "dtype": dtype,
        "normalised": True,
        "temperature": 1 / head.scale,
    }
    # Plain tuples: unpickling these classes would import torch in processes that only decode or write.
    options: dict[str, Any] = {"tokenizer": info.tokenizer and astuple(info.tokenizer), "logit_head": astuple(head)}
    if config.pooled:
        metadata["pooled"] = {"image": info.image_pooled, "text": info.text_pooled, "normalised": False}
    if config.zero_shot:
        options |= {"templates": config.zero_shot.templates, "top_k": min(config.zero_shot.top_k, len(labels))}
        metadata["zero_shot"] = {
            "classes": len(labels),
            "templates": list(config.zero_shot.templates),
            "activation": "sigmoid" if head.sigmoid else "softmax",
            "bias": head.bias,
        }
    return Spec("align", weights, canvas, scale, _fields(config, info, dtype), labels, metadata, options)


def _fields(config: AlignConfig, info: towers.DualEncoderInfo, dtype: str) -> tuple[pa.Field, ...]:
    stored = pa.type_for_alias(dtype)
    fields = [schema.embedding(schema.IMAGE_EMBEDDING, info.dim, stored)]
    if config.pooled:
        fields.append(schema.embedding(schema.IMAGE_POOLED, info.image_pooled, stored))
    if config.zero_shot:
        fields += schema.zero_shot()
    if config.text:
        fields += [schema.embedding(schema.TEXT_EMBEDDING, info.dim, stored)]
        fields += [schema.embedding(schema.TEXT_POOLED, info.text_pooled, stored)] * config.pooled
        fields.append(schema.similarity())
    return tuple(fields)


@dataclass(frozen=True)
class PreparedTexts:
    """The texts of a batch of n rows, each distinct text tokenised once.

    `absent` (bool [n]) marks rows without text. `inverse` (int64 [n - absent]) is, as in torch.unique, the index of
    each present row's text among the distinct ones.
    """

    absent: vectors.Array
    groups: TokenGroups | None
    inverse: torch.Tensor


@dataclass(frozen=True)
class DualEncoderOutputs:
    """Columns of n rows in CPU memory, float32 or int32, [n] or [n, width]; `absent` as in PreparedTexts."""

    columns: dict[str, torch.Tensor]
    absent: vectors.Array | None


class DualEncoder(Model):
    """A loaded dual encoder, and the embeddings of the recipe's zero-shot labels."""

    def __init__(self, spec: Spec, folder: str, options: InferenceOptions) -> None:
        model = loading.load_model(loading.transformers().AutoModel, folder, spec.weights.name)
        if model.config.model_type == "align":
            align.optimise_for_inference(model)
        self._towers = Towers(model.to(options.device, options.dtype))
        self._scale = Scaler(spec.scale, options.device, options.dtype)
        self._device = options.device
        self._types = {field.name: field.type for field in spec.fields}
        self._tokenizer = None
        if tokenizer := spec.options["tokenizer"]:
            self._tokenizer = Tokenizer.from_pretrained(
                folder, spec.weights.name, model.config, TokenizerOptions(*tokenizer)
            )
        self._texts = MicroBatcher(self._text_columns, FixedSize())
        self._zero_shot: ZeroShotClassifier | None = None
        if spec.labels:
            labels = zero_shot.embed_labels(spec.labels, spec.options["templates"], self._embed_texts)
            self._zero_shot = ZeroShotClassifier(labels, LogitHead(*spec.options["logit_head"]), spec.options["top_k"])
        self._images = options.micro_batched(self._image_columns)

    def prepare(self, texts: list[str | None]) -> PreparedTexts | None:
        """Tokenise the distinct texts, in groups of similar length; None if the job wants no text columns."""
        if self._tokenizer is None or schema.TEXT_EMBEDDING not in self._types:
            return None
        absent = np.array([text is None or not text.strip() for text in texts])
        present = [text for text, none in zip(texts, absent, strict=True) if text and not none]
        index = {text: i for i, text in enumerate(dict.fromkeys(present))}
        groups = self._tokenizer(list(index)) if index else None
        return PreparedTexts(absent, groups, torch.tensor([index[text] for text in present], dtype=torch.int64))

    @torch.inference_mode()
    def forward(self, pixels: torch.Tensor, prepared: PreparedTexts | None) -> DualEncoderOutputs:
        """Compute every column of the batch; rows without text have zeros in the text columns."""
        columns = dict(zip(self._wanted(_IMAGE_COLUMNS), self._images(pixels), strict=True))
        if prepared is None:
            return DualEncoderOutputs({name: tensor.cpu() for name, tensor in columns.items()}, None)
        names = self._wanted(_TEXT_COLUMNS)
        for name in names:
            columns[name] = torch.zeros(len(pixels), self._types[name].list_size, device=self._device)
        if prepared.groups:
            present = torch.from_numpy(np.flatnonzero(~prepared.absent)).to(self._device)
            for name, distinct in zip(names, self._encode(prepared.groups), strict=True):
                columns[name][present] = distinct[prepared.inverse.to(self._device)]
        cosines = (columns[schema.IMAGE_EMBEDDING] * columns[schema.TEXT_EMBEDDING]).sum(1)
        columns[schema.SIMILARITY] = cosines
        return DualEncoderOutputs({name: tensor.cpu() for name, tensor in columns.items()}, prepared.absent)

    def _wanted(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name in self._types]

    def _image_columns(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """uint8 [n, height, width, 3] -> the wanted _IMAGE_COLUMNS, [n, width] each."""
        embeddings, pooled = self._towers.encode_images(self._scale(pixels))
        labels = self._zero_shot(embeddings) if self._zero_shot else ()
        return (embeddings, pooled, *labels) if schema.IMAGE_POOLED in self._types else (embeddings, *labels)

    def _text_columns(self, *tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Token ids and mask [n, length] -> the wanted _TEXT_COLUMNS, [n, width] each."""
        encoded = self._towers.encode_texts(*(tensor.to(self._device) for tensor in tokens))
        return encoded if schema.TEXT_POOLED in self._types else encoded[:1]

    def _encode(self, groups: TokenGroups) -> list[torch.Tensor]:
        """The wanted _TEXT_COLUMNS, in the order in which the texts were passed to the tokenizer."""
        columns = zip(*(self._texts(*tokens) for tokens in groups.tokens), strict=True)
        return [torch.cat(column)[groups.inverse.to(self._device)] for column in columns]

    @torch.inference_mode()
    def _embed_texts(self, texts: list[str]) -> torch.Tensor:
        """Unit vectors of n texts, float32 [n, dim]."""
        assert self._tokenizer is not None
        return self._encode(self._tokenizer(texts))[0]

    def to_results(self, outputs: DualEncoderOutputs) -> Results:
        """Convert to Arrow; a text column is null in rows without text."""
        arrays: dict[str, pa.Array] = {}
        non_finite = np.zeros(len(outputs.columns[schema.IMAGE_EMBEDDING]), bool)
        for name, tensor in outputs.columns.items():
            values, arrow_type = tensor.numpy(), self._types[name]
            if name == schema.SIMILARITY:
                arrays[name] = pa.array(values, arrow_type, mask=outputs.absent)
            elif pa.types.is_list(arrow_type):
                arrays[name] = vectors.list_array(values)
            else:
                values = vectors.cast_to(values, arrow_type)
                non_finite |= ~np.isfinite(values).all(1)
                absent = outputs.absent if name in _TEXT_COLUMNS else None
                arrays[name] = vectors.fixed_size_list_array(values, absent, arrow_type)
        return Results(arrays, non_finite)
