"""Compare an output with plain transformers code: the checkpoint's processor and model, in float32 on the CPU."""

import math
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from jobs import schema
from jobs.config import AlignConfig, JobConfig, VitConfig, ZeroShotConfig
from jobs.errors import Reject
from jobs.images.decode import decode
from jobs.models import loading
from jobs.models.texts import max_length
from jobs.models.weights import Weights, resolve_weights
from jobs.models.zero_shot import LogitHead
from jobs.output.layout import ROWS
from jobs.output.ledger import Ledger
from jobs.sources.discover import discover
from jobs.sources.lookup import read_rows
from jobs.storage import Storage

MIN_COSINE = 0.999  # bfloat16 on a GPU stays above; another crop or model stays far below
MAX_PROBABILITY_ERROR = 0.05
MAX_LOG_ERROR = 0.7  # a probability doubled or halved; float16 cosines, times a scale of 100, err far less
_MIN_PROBABILITY = 1e-9  # floor of compared probabilities
_LABELS_PER_CALL = 64

Row = dict[str, Any]  # a row of the output, by column


def compare(storage: Storage, config: JobConfig, committed: Ledger, count: int) -> tuple[int, list[str]]:
    """Compute a sample of `count` rows again. Return the size of the sample and the differences found."""
    rows = _sample(storage, committed, count)
    addresses = [(row[schema.SHARD], row[schema.ROW]) for row in rows]
    texts, images = read_rows(storage, discover(storage, config.source), addresses, config.fetch)
    problems = [f"{address}: no longer in the source" for address in addresses if address not in images]
    present = [(row, address) for row, address in zip(rows, addresses, strict=True) if address in images]
    stored = [row for row, _ in present]
    try:
        decoded = [decode(images[address], config.decode).image for _, address in present]
    except Reject as exc:
        return len(rows), [f"an image of the sample no longer decodes: {exc.message}; was a shard replaced?"]
    if config.models.vit:
        problems += _check_labels(stored, decoded, config.models.vit, storage)
    if config.models.align:
        pairs = [(image, texts[address]) for image, (_, address) in zip(decoded, present, strict=True)]
        problems += _check_embeddings(stored, pairs, config.models.align, storage)
    return len(rows), problems


def _sample(storage: Storage, committed: Ledger, count: int) -> list[Row]:
    """Return rows spread over the first, middle and last objects."""
    objects = [obj for obj in committed.objects if obj.folder == ROWS and obj.num_rows]
    chosen = {round(i) for i in np.linspace(0, len(objects) - 1, min(3, len(objects)))} if objects else set()
    tables = [pq.read_table(storage.open(objects[i].entry)).replace_schema_metadata() for i in sorted(chosen)]
    table = pa.concat_tables(tables) if tables else pa.table({})
    picked = sorted({round(i) for i in np.linspace(0, table.num_rows - 1, min(count, table.num_rows))})
    sampled: list[Row] = table.take(pa.array(picked, pa.int64())).to_pylist() if picked else []
    return sampled


@torch.inference_mode()
def _check_labels(rows: Sequence[Row], images: Sequence[Any], config: VitConfig, storage: Storage) -> list[str]:
    weights, folder = resolve_weights("vit", config.weights, config.revision, storage)
    settings = loading.load_config(folder, weights.name)
    processor = _processor(folder, settings)
    model = loading.load_model(loading.transformers().AutoModelForImageClassification, folder, weights.name)
    problems = []
    for row, image in zip(rows, images, strict=True):
        logits = model(**processor(images=image, return_tensors="pt")).logits[0]
        multi = settings.problem_type == "multi_label_classification"
        probs = logits.sigmoid() if multi else logits.softmax(0)
        problems += _compare_probabilities(row, probs)
    return problems


@torch.inference_mode()
def _check_embeddings(
    rows: Sequence[Row], pairs: Sequence[tuple[Any, str | None]], config: AlignConfig, storage: Storage
) -> list[str]:
    encoder = _Encoder(*resolve_weights("align", config.weights, config.revision, storage))
    labels = encoder.labels(config.zero_shot) if config.zero_shot else None
    problems = []
    for row, (image, text) in zip(rows, pairs, strict=True):
        features, pooled = encoder.image(image)
        problems += _compare_vectors(row, schema.IMAGE_EMBEDDING, features)
        problems += _compare_vectors(row, schema.IMAGE_POOLED, pooled) if config.pooled else []
        if labels is not None:
            problems += _compare_zero_shot(row, encoder.probabilities(features, labels))
        if text is not None and row.get(schema.TEXT_EMBEDDING) is not None:
            features, pooled = encoder.texts([text], "max_length")
            problems += _compare_vectors(row, schema.TEXT_EMBEDDING, features)
            problems += _compare_vectors(row, schema.TEXT_POOLED, pooled) if config.pooled else []
    return problems


class _Encoder:
    """A dual encoder, used as in the documentation of transformers."""

    def __init__(self, weights: Weights, folder: str) -> None:
        self._settings = loading.load_config(folder, weights.name)
        self._processor = _processor(folder, self._settings)
        self._model = loading.load_model(loading.transformers().AutoModel, folder, weights.name)
        self._score = LogitHead.from_model(self._model, weights.name)
        self._folder = folder
        self._pooled: dict[str, torch.Tensor] = {}
        for name in ("visual_projection", "text_projection"):
            if isinstance(projection := getattr(self._model, name, None), torch.nn.Module):
                projection.register_forward_pre_hook(partial(self._record_input, name))

    def _record_input(self, name: str, _: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._pooled[name] = inputs[0]

    def image(self, image: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the image's features [1, dim] and their pooled input before the projection [1, pooled dim]."""
        features = self._model.get_image_features(**self._processor(images=image, return_tensors="pt")).pooler_output
        return features, self._pooled.get("visual_projection", features)

    def texts(self, texts: list[str], padding: str | bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features [n, dim] of n texts and their pooled inputs before the projection [n, pooled dim]."""
        most = max_length(self._tokenizer, self._settings)
        tokens = self._tokenizer(texts, padding=padding, max_length=most, truncation=True, return_tensors="pt")
        features = self._model.get_text_features(**tokens).pooler_output
        return features, self._pooled.get("text_projection", features)

    @cached_property
    def _tokenizer(self) -> Any:
        return loading.transformers().AutoTokenizer.from_pretrained(self._folder)

    def labels(self, config: ZeroShotConfig) -> torch.Tensor:
        """Return [labels, dim]: per label the mean of the normalised features of its templates.

        Texts are padded as in transformers' zero-shot-image-classification pipeline.
        """
        padding = "max_length" if "siglip" in self._settings.model_type else True
        means = []
        for start in range(0, len(config.labels), _LABELS_PER_CALL):
            labels = config.labels[start : start + _LABELS_PER_CALL]
            features = [self.texts([t.replace("{}", label) for label in labels], padding)[0] for t in config.templates]
            means.append(torch.stack([torch.nn.functional.normalize(vectors) for vectors in features]).mean(0))
        return torch.cat(means)

    def probabilities(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        cosines = torch.nn.functional.cosine_similarity(features, labels)
        return self._score.probabilities(self._score.logits(cosines)[None])[0]


def _processor(folder: str, settings: Any) -> Any:
    return loading.transformers().AutoImageProcessor.from_pretrained(folder, config=settings, backend="pil")


def _compare_probabilities(row: Row, probs: torch.Tensor) -> list[str]:
    """Compare the stored probabilities of a classifier with the reference."""
    return [
        f"{_where(row)}: label {label} has {prob:.4f}, the reference {float(probs[label]):.4f}"
        for label, prob in zip(row[schema.LABELS], row[schema.LABEL_PROBS], strict=True)
        if not abs(float(probs[label]) - prob) <= MAX_PROBABILITY_ERROR
    ]


def _compare_zero_shot(row: Row, probs: torch.Tensor) -> list[str]:
    """Compare stored zero-shot labels, and the reference's best label, on a log scale: all may be improbable."""
    stored = dict(zip(row[schema.ZERO_SHOT_LABELS], row[schema.ZERO_SHOT_PROBS], strict=True))
    best = int(probs.argmax())
    compared = stored if best in stored else {**stored, best: min(stored.values())}
    return [
        f"{_where(row)}: zero-shot label {label} has at most {prob:.2e}, the reference {float(probs[label]):.2e}"
        for label, prob in compared.items()
        if not abs(_log(prob) - _log(float(probs[label]))) <= MAX_LOG_ERROR
    ]


def _log(probability: float) -> float:
    return math.log(max(probability, _MIN_PROBABILITY))


def _compare_vectors(row: Row, name: str, features: torch.Tensor) -> list[str]:
    stored = torch.tensor(np.asarray(row[name], np.float32))
    cosine = float(torch.nn.functional.cosine_similarity(stored, features[0], dim=0))
    return [] if cosine >= MIN_COSINE else [f"{_where(row)}: {name} has cosine {cosine:.5f} to the reference"]


def _where(row: Row) -> str:
    return f"{row[schema.SHARD]} row {row[schema.ROW]}"
