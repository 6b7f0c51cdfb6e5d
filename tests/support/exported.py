"""Write a finished output with the writer of a run, without Ray, for tests of exports and joins."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import schema
from jobs.config import JobConfig
from jobs.images.canvas import Canvas, Scale
from jobs.models import Spec
from jobs.models.weights import Weights
from jobs.output import identity
from jobs.output.writer import Writer
from jobs.storage import Storage

DIM = 8
NAMES = ("cat", "dog", "owl", "fish", "ant")
KEPT = {"url": pa.string(), "text": pa.string(), "width": pa.int32(), "height": pa.int32(), "image_phash": pa.string()}
RESULTS = (
    *schema.labels(),
    schema.embedding("image_embedding", DIM, pa.float16()),
    schema.embedding("text_embedding", DIM, pa.float16()),
    schema.similarity(),
)
Row = dict[str, Any]


def row(index: int) -> Row:
    """A row of COYO with its results; every tenth has no text, and so no text embedding."""
    rng = np.random.default_rng(index)
    text = index % 10 != 7
    return {
        "shard": "part-00000.parquet", "row": index, "_since": index, "key": 1000 + 3 * index, "_end": False,
        "url": f"https://example.org/{index}.jpg", "text": f"picture {index}" if text else None,
        "width": 100 + index, "height": 50, "image_phash": f"{index:016x}",
        "labels": [index % 5, (index + 1) % 5], "label_probs": [0.75, 0.25],
        "image_embedding": vector(rng), "text_embedding": vector(rng) if text else None,
        "similarity": 0.5 if text else None,
    }  # fmt: skip


def vector(rng: np.random.Generator) -> list[float]:
    values = rng.standard_normal(DIM)
    return [float(value) for value in (values / np.linalg.norm(values)).astype(np.float16)]


def write_output(
    path: object,
    rows: int | Iterable[Row] = 50,
    *,
    kept: Mapping[str, pa.DataType] = KEPT,
    key: pa.DataType | None = None,
    key_column: str = "",
    results: Iterable[pa.Field] = RESULTS,
    per_object: int = 20,
    change: Callable[[Row], Row] = lambda given: given,
) -> str:
    """A finished output with these rows and one reject, in objects of `per_object` rows; its path."""
    given = [change(one) for one in (map(row, range(rows)) if isinstance(rows, int) else rows)]
    raw = schema.raw(key or pa.int64(), [pa.field(name, kind) for name, kind in kept.items()])
    columns = schema.annotated(raw, list(results))
    config = JobConfig.from_dict({"source": {"path": f"{path}-in", "keep": list(kept)}, "output": {"path": str(path)}})
    about = {"run": "r1", "job": identity.fingerprint(config), "version": "0", "key": key_column}
    writer = Writer(Storage(), str(path), columns, (_spec(),), about)
    identity.claim_output(Storage(), config)
    total = len(given) + 1
    end = {"shard": "part-00000.parquet", "row": total, "_since": total, "_end": True, "_total": total}
    at = {"shard": "part-00000.parquet", "row": total - 1, "_since": total - 1}
    bad = {**at, "_end": False, "_stage": "decode", "_reason": "empty"}
    for number, start in enumerate(range(0, len(given), per_object)):
        last = start + per_object >= len(given)
        batch = given[start : start + per_object] + ([{**bad, "_message": "0 bytes"}, end] if last else [])
        table = pa.Table.from_pylist(batch, schema=columns)
        writer.write(table, f"part-r1-{number:06d}.parquet")
    Storage().put(f"{path}/_SUCCESS", b"")
    return str(path)


def read(path: object) -> pa.Table:
    """Every Parquet file below a folder, in the order of their names."""
    found = [entry for entry in Storage().list_files(str(path)) if entry.path.endswith(".parquet")]
    return pa.concat_tables([pq.read_table(Storage().open(entry)).replace_schema_metadata() for entry in found])


def _spec() -> Spec:
    return Spec(
        kind="vit",
        weights=Weights("demo", "sha256:0", Storage()),
        canvas=Canvas(squash=(8, 8)),
        scale=Scale((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
        fields=RESULTS,
        labels=NAMES,
        metadata={"weights": "demo", "revision": "sha256:0", "classes": len(NAMES)},
        options={},
    )
