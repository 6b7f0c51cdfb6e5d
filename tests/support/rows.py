"""Annotated rows of one model, and a writer for them."""

import pyarrow as pa

from jobs import schema
from jobs.images.canvas import Canvas, Scale
from jobs.models import Spec
from jobs.models.weights import Weights
from jobs.output.writer import Writer
from jobs.storage import Storage

SPEC = Spec(
    kind="vit",
    weights=Weights("demo", "sha256:0", Storage()),
    canvas=Canvas(squash=(8, 8)),
    scale=Scale((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    fields=tuple(schema.labels()),
    labels=("cat", "dog"),
    metadata={"weights": "demo", "revision": "sha256:0"},
    options={},
)


ANNOTATED = schema.annotated(schema.raw(pa.int64(), [pa.field("url", pa.string())]), SPEC.fields)


def writer(path: object, run: str = "r1") -> Writer:
    return Writer(Storage(), str(path), ANNOTATED, (SPEC,), {"run": run, "job": "f" * 16, "version": "0"})


def good(shard: str, *rows: int) -> list[dict[str, object]]:
    return [
        {"shard": shard, "row": row, "_since": row, "key": 1000 + row, "url": f"u{row}", "_end": False}
        | {"labels": [1, 0], "label_probs": [0.75, 0.25]}
        for row in rows
    ]


def bad(shard: str, *rows: int, reason: str = "truncated") -> list[dict[str, object]]:
    why = {"_stage": "decode", "_reason": reason, "_message": "cut"}
    return [{"shard": shard, "row": row, "_since": row, "key": 1000 + row, "_end": False, **why} for row in rows]


def end(shard: str, total: int, damage: str | None = None) -> list[dict[str, object]]:
    return [{"shard": shard, "row": total, "_since": total, "_end": True, "_total": total, "_message": damage}]


def batch(*rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist([row for some in rows for row in some], schema=ANNOTATED)
