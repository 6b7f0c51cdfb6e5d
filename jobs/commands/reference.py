"""What plain transformers code says about a row: its own processor and model, in float32 on the CPU."""

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

COSINE = 0.999  # bfloat16 on a GPU stays above; another crop or another model does not come near
PROBABILITY = 0.05
LOGIT = 0.7  # a probability doubled or halved: float16's cosines, times a scale of 100, stay far below
_LEAST = 1e-9  # of a probability that is compared
_LABELS_PER_CALL = 64

Row = dict[str, Any]  # of the output, by column


def compare(storage: Storage, config: JobConfig, committed: Ledger, count: int) -> tuple[int, list[str]]:
    """Compute `count` rows again: how many there were, and where the output differs from them."""
    rows = _sample(storage, committed, count)
    addresses = [(row[schema.SHARD], row[schema.ROW]) for row in rows]
    written, pictures = read_rows(storage, discover(storage, config.source), addresses, config.fetch)
    problems = [f"{address}: not in the source any more" for address in addresses if address not in pictures]
    there = [address for address in addresses if address in pictures]
    present = [row for row, address in zip(rows, addresses, strict=True) if address in pictures]
    try:
        images = [decode(pictures[address], config.decode).image for address in there]
    except Reject as exc:
        return len(rows), [f"an image of the sample no longer decodes: {exc.message}; was a shard replaced?"]
    if config.models.vit:
        problems += _labels(present, images, config.models.vit, storage)
    if config.models.align:
        texts = [written[address] for address in there]
        problems += _embeddings(present, list(zip(images, texts, strict=True)), config.models.align, storage)
    return len(rows), problems


def _sample(storage: Storage, committed: Ledger, count: int) -> list[Row]:
    """Rows spread over the first, middle and last objects."""
    objects = [obj for obj in committed.objects if obj.folder == ROWS and obj.num_rows]
    chosen = {round(i) for i in np.linspace(0, len(objects) - 1, min(3, len(objects)))} if objects else set()
    tables = [pq.read_table(storage.open(objects[i].entry)).replace_schema_metadata() for i in sorted(chosen)]
    table = pa.concat_tables(tables) if tables else pa.table({})
    picked = sorted({round(i) for i in np.linspace(0, table.num_rows - 1, min(count, table.num_rows))})
    sampled: list[Row] = table.take(pa.array(picked, pa.int64())).to_pylist() if picked else []
    return sampled


@torch.inference_mode()
def _labels(rows: Sequence[Row], images: Sequence[Any], config: VitConfig, storage: Storage) -> list[str]:
    weights, folder = resolve_weights("vit", config.weights, config.revision, storage)
    settings = loading.load_config(folder, weights.name)
    processor = _processor(folder, settings)
    model = loading.load_model(loading.transformers().AutoModelForImageClassification, folder, weights.name)
    problems = []
    for row, image in zip(rows, images, strict=True):
        logits = model(**processor(images=image, return_tensors="pt")).logits[0]
        multi = settings.problem_type == "multi_label_classification"
        probs = logits.sigmoid() if multi else logits.softmax(0)
        problems += _improbable(row, probs)
    return problems


@torch.inference_mode()
def _embeddings(
    rows: Sequence[Row], pairs: Sequence[tuple[Any, str | None]], config: AlignConfig, storage: Storage
) -> list[str]:
    encoder = _Encoder(*resolve_weights("align", config.weights, config.revision, storage))
    labels = encoder.labels(config.zero_shot) if config.zero_shot else None
    problems = []
    for row, (image, text) in zip(rows, pairs, strict=True):
        features, pooled = encoder.image(image)
        problems += _far(row, schema.IMAGE_EMBEDDING, features)
        problems += _far(row, schema.IMAGE_POOLED, pooled) if config.pooled else []
        if labels is not None:
            problems += _unlike(row, encoder.probabilities(features, labels))
        if text is not None and row.get(schema.TEXT_EMBEDDING) is not None:
            features, pooled = encoder.texts([text], "max_length")
            problems += _far(row, schema.TEXT_EMBEDDING, features)
            problems += _far(row, schema.TEXT_POOLED, pooled) if config.pooled else []
    return problems


class _Encoder:
    """A dual encoder as the documentation of transformers shows it."""

    def __init__(self, weights: Weights, folder: str) -> None:
        self._settings = loading.load_config(folder, weights.name)
        self._processor = _processor(folder, self._settings)
        self._model = loading.load_model(loading.transformers().AutoModel, folder, weights.name)
        self._score = LogitHead.from_model(self._model, weights.name)
        self._folder = folder
        self._pooled: dict[str, torch.Tensor] = {}
        for name in ("visual_projection", "text_projection"):
            if isinstance(projection := getattr(self._model, name, None), torch.nn.Module):
                projection.register_forward_pre_hook(partial(self._keep, name))

    def _keep(self, name: str, _: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        self._pooled[name] = given[0]

    def image(self, image: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Its features, and what went into their projection, [1, dim]."""
        features = self._model.get_image_features(**self._processor(images=image, return_tensors="pt")).pooler_output
        return features, self._pooled.get("visual_projection", features)

    def texts(self, texts: list[str], padding: str | bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of n texts, [n, dim]."""
        most = max_length(self._tokenizer, self._settings)
        tokens = self._tokenizer(texts, padding=padding, max_length=most, truncation=True, return_tensors="pt")
        features = self._model.get_text_features(**tokens).pooler_output
        return features, self._pooled.get("text_projection", features)

    @cached_property
    def _tokenizer(self) -> Any:
        return loading.transformers().AutoTokenizer.from_pretrained(self._folder)

    def labels(self, config: ZeroShotConfig) -> torch.Tensor:
        """[labels, dim]: the mean of the templates' normalised features; padded as transformers' pipeline pads."""
        padding = "max_length" if "siglip" in self._settings.model_type else True
        means = []
        for start in range(0, len(config.labels), _LABELS_PER_CALL):
            some = config.labels[start : start + _LABELS_PER_CALL]
            each = [self.texts([t.replace("{}", label) for label in some], padding)[0] for t in config.templates]
            means.append(torch.stack([torch.nn.functional.normalize(features) for features in each]).mean(0))
        return torch.cat(means)

    def probabilities(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        cosines = torch.nn.functional.cosine_similarity(features, labels)
        return self._score.probabilities(self._score.logits(cosines)[None])[0]


def _processor(folder: str, settings: Any) -> Any:
    return loading.transformers().AutoImageProcessor.from_pretrained(folder, config=settings, backend="pil")


def _improbable(row: Row, probs: torch.Tensor) -> list[str]:
    """A classifier's label that is more or less probable than stored."""
    return [
        f"{_where(row)}: label {label} has {prob:.4f}, the reference {float(probs[label]):.4f}"
        for label, prob in zip(row[schema.LABELS], row[schema.LABEL_PROBS], strict=True)
        if not abs(float(probs[label]) - prob) <= PROBABILITY
    ]


def _unlike(row: Row, probs: torch.Tensor) -> list[str]:
    """A zero-shot label of another logit than stored, or the best one not stored. Of many labels all may be small."""
    stored = dict(zip(row[schema.ZERO_SHOT_LABELS], row[schema.ZERO_SHOT_PROBS], strict=True))
    best = int(probs.argmax())
    compared = stored if best in stored else {**stored, best: min(stored.values())}
    return [
        f"{_where(row)}: zero-shot label {label} has at most {prob:.2e}, the reference {float(probs[label]):.2e}"
        for label, prob in compared.items()
        if not abs(math.log(max(prob, _LEAST)) - math.log(max(float(probs[label]), _LEAST))) <= LOGIT
    ]


def _far(row: Row, name: str, features: torch.Tensor) -> list[str]:
    stored = torch.tensor(np.asarray(row[name], np.float32))
    cosine = float(torch.nn.functional.cosine_similarity(stored, features[0], dim=0))
    return [] if cosine >= COSINE else [f"{_where(row)}: {name} has cosine {cosine:.5f} to the reference"]


def _where(row: Row) -> str:
    return f"{row[schema.SHARD]} row {row[schema.ROW]}"
