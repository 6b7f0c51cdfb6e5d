"""Batches like those of the actor, and the texts of a batch as one call."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks import corpus
from benchmarks.gpu import clock
from jobs import schema
from jobs.models import Spec
from jobs.models.annotator import Annotator, canvas_tensor

RAW = schema.raw(pa.int64(), [])
_LONGEST = 64  # tokens


def block(specs: tuple[Spec, ...], rows: int) -> pa.Table:
    """Return decoded rows: noise, and texts of COYO's lengths."""
    table = pa.Table.from_pylist(
        [
            {schema.SHARD: "a", schema.ROW: i, schema.KEY: i, schema.END: False, schema.TEXT: text}
            for i, text in enumerate(corpus.texts(rows))
        ],
        schema.decoded(RAW, []),
    )
    for canvas in {spec.canvas for spec in specs}:
        noise = np.random.default_rng(0).integers(0, 256, (rows, *canvas.size, 3), np.uint8)
        table = table.append_column(canvas.field, pa.FixedShapeTensorArray.from_numpy_ndarray(noise))
    return table


def resident(
    annotator: Annotator, specs: tuple[Spec, ...], table: pa.Table, device: str
) -> dict[str, Callable[[], Any]]:
    """Return a call of each model, on pixels that are already on the device."""
    texts = table.column(schema.TEXT).to_pylist()
    return {
        spec.kind: partial(model.forward, canvas_tensor(table, spec.canvas.name).to(device), model.prepare(texts))
        for spec, model in zip(specs, annotator._models, strict=True)
    }


def fed(call: Callable[[pa.Table], Any], table: pa.Table, turns: int, threads: int) -> float:
    """Return rows/s from Arrow tables in host memory to results there, as Ray Data calls the actor."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, [table] * threads))
        with clock.timed() as took:
            list(pool.map(call, [table] * turns))
    return turns * int(table.num_rows) / took()


def padded(embedder: Any, texts: list[str], *, pin: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the distinct texts as token ids [rows, 64] and an additive mask, which need no synchronisation."""
    present = list(dict.fromkeys(text for text in texts if text and text.strip()))
    tokenizer = embedder._tokenizer
    with tokenizer._lock:
        tokens = tokenizer._tokenizer(present, truncation=True, max_length=_LONGEST)["input_ids"]
    ids, keep = np.zeros((len(texts), _LONGEST), np.int64), np.zeros((len(texts), 1, 1, _LONGEST), bool)
    keep[len(tokens) :, ..., 0] = True
    for row, each in enumerate(tokens):
        ids[row, : len(each)], keep[row, 0, 0, : len(each)] = each, True
    dtype, device = embedder._towers._model.dtype, embedder._device
    here = [torch.from_numpy(array) for array in (ids, keep)]
    there = [(each.pin_memory() if pin else each).to(device, non_blocking=pin) for each in here]
    return there[0], torch.where(there[1], 0.0, torch.finfo(dtype).min).to(dtype)
