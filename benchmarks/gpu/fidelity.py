"""Each precision relative to float32 without TF32, with the demo's trained checkpoints and with full-size ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import checkpoints, corpus
from benchmarks.gpu.batches import block
from benchmarks.gpu.bench import Bench
from jobs import schema
from jobs.config import DecodeConfig
from jobs.errors import Reject
from jobs.images.render import render
from jobs.models import Spec
from jobs.models.annotator import Annotator, ExecutionOptions

_EMBEDDINGS = (schema.IMAGE_EMBEDDING, schema.TEXT_EMBEDDING)
_LOOKED_AT = [schema.LABELS, schema.LABEL_PROBS, schema.REASON, *_EMBEDDINGS]
_PICTURES = 64


def fidelity(bench: Bench) -> None:
    for name, specs in (("demo", checkpoints.specs(None, "float32")), (bench.size, bench.specs)):
        table = _table(specs, bench.photos)
        exact = _annotated(bench, specs, table, "float32")
        for way in ("auto", "bfloat16", "float16"):
            bench.say(f"{name}, {way}", _told(exact, _annotated(bench, specs, table, way)))


def _table(specs: tuple[Spec, ...], photos: Path | None) -> pa.Table:
    canvases = list(dict.fromkeys(spec.canvas for spec in specs))
    painted = []
    for data in corpus.pictures(_PICTURES, photos):
        try:
            painted.append(render(data, DecodeConfig(), canvases, fast=True))
        except Reject:
            continue
    table = block(specs, len(painted))
    for i, canvas in enumerate(canvases):
        stack = pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack([each[i] for each in painted]))
        table = table.set_column(table.schema.get_field_index(canvas.name), canvas.field, stack)
    return table


def _annotated(bench: Bench, specs: tuple[Spec, ...], table: pa.Table, precision: str) -> dict[str, list[Any]]:
    done = Annotator(specs, ExecutionOptions(bench.device.type, precision, batch_size=32))(table)
    bench.free()
    columns: dict[str, list[Any]] = done.sort_by(schema.ROW).select(_LOOKED_AT).to_pydict()
    return columns


def _told(exact: dict[str, list[Any]], found: dict[str, list[Any]]) -> str:
    far = {
        name: max(1 - _cosine(a, b) for a, b in zip(exact[name], found[name], strict=True) if a and b)
        for name in _EMBEDDINGS
    }
    labels = list(zip(exact[schema.LABELS], found[schema.LABELS], strict=True))
    top1 = np.mean([a[0] == b[0] for a, b in labels])
    top5 = np.mean([len(set(a) & set(b)) / len(a) for a, b in labels])
    probs = zip(exact[schema.LABEL_PROBS], found[schema.LABEL_PROBS], strict=True)
    moved = max(abs(a[0] - b[0]) for a, b in probs)
    bad = sum(reason is not None for reason in found[schema.REASON])
    worst = ", ".join(f"{name} {value:.1e}" for name, value in far.items())
    return f"1 - cosine, worst: {worst}; top-1 {top1:.1%}, top-5 {top5:.1%}, prob {moved:.3f}; {bad} non-finite"


def _cosine(a: list[float], b: list[float]) -> float:
    """Return the cosine; stored vectors have length one only up to float16's rounding."""
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))
