"""ALIGN embeddings of images and texts, L2-normalised, and their cosine."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from jobs import schema
from jobs.config import AlignConfig
from jobs.errors import CheckpointError
from jobs.models import Results, Spec, loading
from jobs.models.vit import Scaler
from jobs.models.weights import Weights

MAX_TOKENS = 64  # what ALIGN was trained with, and what its processor pads to
TEXTS_PER_CALL = 64  # texts are sorted by length first, so a call pads little
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


class Embedder:
    """A loaded dual encoder. The towers come from AlignModel: loaded alone they would be random."""

    def __init__(self, spec: Spec, folder: str, device: torch.device, dtype: torch.dtype) -> None:
        model = loading.model(loading.transformers().AlignModel, folder, spec.weights.name)
        self._model = model.to(device, dtype)
        self._scale = Scaler(spec.scale, device, dtype)
        self._device = device
        self._fields = spec.fields
        self._tokenizer = _tokenizer(folder, spec.weights.name) if spec.options["text"] else None
        positions = model.config.text_config.max_position_embeddings
        self._max_tokens = min(MAX_TOKENS, positions)

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor, texts: list[str | None]) -> Results:
        features = self._model.get_image_features(pixel_values=self._scale(pixels)).pooler_output
        images = _unit(features)
        broken = ~torch.isfinite(images).all(1)
        columns = {schema.IMAGE_EMBEDDING: _vectors(images.cpu().numpy(), None, self._fields[0])}
        if self._tokenizer is not None:
            vectors, absent = self._embed(texts)
            broken |= ~torch.isfinite(vectors).all(1)
            columns[schema.TEXT_EMBEDDING] = _vectors(vectors.cpu().numpy(), absent, self._fields[1])
            cosine = (images * vectors).sum(1).cpu().numpy()
            columns[schema.SIMILARITY] = pa.array(cosine, pa.float32(), mask=absent)
        return Results(columns, broken.cpu().numpy())

    def _embed(self, texts: list[str | None]) -> tuple[torch.Tensor, "np.ndarray[Any, np.dtype[np.bool_]]"]:
        """float32 [n, dim] on the device, and which rows have no text. Each distinct text is encoded once."""
        absent = np.array([text is None or not text.strip() for text in texts])
        distinct = list({text: None for text, none in zip(texts, absent, strict=True) if text and not none})
        vectors = torch.zeros((len(texts), self._model.config.projection_dim), device=self._device)
        if not distinct:
            return vectors, absent
        place = {text: i for i, text in enumerate(distinct)}
        rows = torch.from_numpy(np.flatnonzero(~absent))
        chosen = torch.tensor([place[text] for text, none in zip(texts, absent, strict=True) if text and not none])
        vectors[rows.to(self._device)] = self._encode(distinct)[chosen.to(self._device)]
        return vectors, absent

    def _encode(self, texts: list[str]) -> torch.Tensor:
        """float32 [n, dim], normalised. Sorted by length so that short texts are not padded to long ones."""
        assert self._tokenizer is not None
        ids = self._tokenizer(texts, truncation=True, max_length=self._max_tokens)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        encoded: list[torch.Tensor] = []
        for start in range(0, len(order), TEXTS_PER_CALL):
            part = [ids[i] for i in order[start : start + TEXTS_PER_CALL]]
            tokens = self._tokenizer.pad({"input_ids": part}, return_tensors="pt").to(self._device)
            features = self._model.get_text_features(**tokens).pooler_output
            encoded.append(_unit(features))
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(encoded)[back.to(self._device)]


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
