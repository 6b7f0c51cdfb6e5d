"""What plain transformers code says about a row: its own processor and model, in float32 on the CPU."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from jobs import schema
from jobs.config import JobConfig
from jobs.decode import decode
from jobs.errors import Reject
from jobs.ledger import Ledger
from jobs.lookup import fetch
from jobs.models import loading
from jobs.models.align import MAX_TOKENS
from jobs.models.weights import pin
from jobs.paths import ROWS
from jobs.sources.discover import discover
from jobs.storage import Storage

COSINE = 0.999  # bfloat16 on a GPU stays above; another crop or another model does not come near
PROBABILITY = 0.05


def compare(storage: Storage, config: JobConfig, books: Ledger, count: int) -> tuple[int, list[str]]:
    """Compute `count` rows again: how many there were, and where the output differs from them."""
    rows = _sample(storage, books, count)
    addresses = [(row[schema.SHARD], row[schema.ROW]) for row in rows]
    given = fetch(storage, discover(storage, config.source), addresses, config.fetch)
    problems = [f"{address}: not in the source any more" for address in addresses if address not in given]
    present = [row for row, address in zip(rows, addresses, strict=True) if address in given]
    pairs = [given[row[schema.SHARD], row[schema.ROW]] for row in present]
    try:
        images = [decode(data, config.decode).image for _, data in pairs]
    except Reject as exc:
        return len(rows), [f"an image of the sample no longer decodes: {exc.message}; was a shard replaced?"]
    if config.models.vit:
        problems += _labels(present, images, config, storage)
    if config.models.align:
        problems += _embeddings(present, images, [text for text, _ in pairs], config, storage)
    return len(rows), problems


def _sample(storage: Storage, books: Ledger, count: int) -> list[dict[str, Any]]:
    """Rows spread over the first, middle and last objects."""
    objects = [obj for obj in books.objects if obj.folder == ROWS and obj.count]
    chosen = {round(i) for i in np.linspace(0, len(objects) - 1, min(3, len(objects)))} if objects else set()
    tables = [pq.read_table(storage.open(objects[i].entry)).replace_schema_metadata() for i in sorted(chosen)]
    table = pa.concat_tables(tables) if tables else pa.table({})
    picked = sorted({round(i) for i in np.linspace(0, table.num_rows - 1, min(count, table.num_rows))})
    sampled: list[dict[str, Any]] = table.take(pa.array(picked, pa.int64())).to_pylist() if picked else []
    return sampled


@torch.inference_mode()
def _labels(rows: Sequence[dict[str, Any]], images: Sequence[Any], config: JobConfig, storage: Storage) -> list[str]:
    assert config.models.vit is not None
    weights, folder = pin("vit", config.models.vit.weights, config.models.vit.revision, storage)
    settings = loading.config(folder, weights.name)
    processor = loading.transformers().AutoImageProcessor.from_pretrained(folder, config=settings, backend="pil")
    model = loading.model(loading.transformers().AutoModelForImageClassification, folder, weights.name)
    problems = []
    for row, image in zip(rows, images, strict=True):
        logits = model(**processor(images=image, return_tensors="pt")).logits[0]
        multi = settings.problem_type == "multi_label_classification"
        probs = logits.sigmoid() if multi else logits.softmax(0)
        for label, prob in zip(row[schema.LABELS], row[schema.LABEL_PROBS], strict=True):
            if not abs(float(probs[label]) - prob) <= PROBABILITY:
                problems.append(f"{_where(row)}: label {label} has {prob:.4f}, the reference {float(probs[label]):.4f}")
    return problems


@torch.inference_mode()
def _embeddings(
    rows: Sequence[dict[str, Any]],
    images: Sequence[Any],
    texts: Sequence[str | None],
    config: JobConfig,
    storage: Storage,
) -> list[str]:
    assert config.models.align is not None
    weights, folder = pin("align", config.models.align.weights, config.models.align.revision, storage)
    settings = loading.config(folder, weights.name)
    processor = loading.transformers().AutoImageProcessor.from_pretrained(folder, config=settings, backend="pil")
    tokenizer = loading.transformers().AutoTokenizer.from_pretrained(folder)
    model = loading.model(loading.transformers().AlignModel, folder, weights.name)
    longest = min(MAX_TOKENS, settings.text_config.max_position_embeddings)
    problems = []
    for row, image, text in zip(rows, images, texts, strict=True):
        features = model.get_image_features(**processor(images=image, return_tensors="pt")).pooler_output
        problems += _far(row, schema.IMAGE_EMBEDDING, features)
        if row.get(schema.TEXT_EMBEDDING) is not None:
            tokens = tokenizer(text, padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
            problems += _far(row, schema.TEXT_EMBEDDING, model.get_text_features(**tokens).pooler_output)
    return problems


def _far(row: dict[str, Any], name: str, features: torch.Tensor) -> list[str]:
    stored = torch.tensor(np.asarray(row[name], np.float32))
    cosine = float(torch.nn.functional.cosine_similarity(stored, features[0], dim=0))
    return [] if cosine >= COSINE else [f"{_where(row)}: {name} has cosine {cosine:.5f} to the reference"]


def _where(row: dict[str, Any]) -> str:
    return f"{row[schema.SHARD]} row {row[schema.ROW]}"
