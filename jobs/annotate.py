"""The actor that holds all of a job's models: decoded rows in, annotated rows out, one to one."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from jobs import schema
from jobs.errors import ClusterError, Reason, Stage
from jobs.models import Model, Results, Spec
from jobs.models.align import Embedder
from jobs.models.vit import Labeller
from jobs.models.weights import folder_of

_KINDS: dict[str, Callable[..., Model]] = {"vit": Labeller, "align": Embedder}


class Annotator:
    """Every model of the job, loaded once.

    `device` is "cuda" or "cpu", decided where the job was planned: a GPU that is missing here is an error, never a
    silent CPU run. `precision` is a torch dtype's name, or "auto"; `threads` are CPU threads for one model call.
    """

    def __init__(self, specs: Sequence[Spec], device: str, precision: str, threads: int) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ClusterError("an actor was given a GPU, but CUDA cannot be used there", "is torch a CUDA build?")
        torch.set_num_threads(threads)
        self._dtype = _dtype(device, precision)
        self._specs = specs
        self._models = [
            Fitting(_KINDS[spec.kind](spec, folder_of(spec.kind, spec.weights), torch.device(device), self._dtype))
            for spec in specs
        ]
        self._device = device

    @property
    def ran_on(self) -> str:
        """Device and precision, as recorded in the output."""
        name = torch.cuda.get_device_name() if self._device == "cuda" else "CPU"
        return f"{name} {str(self._dtype).removeprefix('torch.')}"

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Rows that are good get every model's columns; rejects and ends pass with nulls."""
        good = pc.and_(pc.is_null(decoded.column(schema.REASON)), pc.invert(decoded.column(schema.END)))
        carried = [name for name in decoded.column_names if name not in self._consumed]
        passing = decoded.filter(pc.invert(good)).select(carried)
        working = decoded.filter(good)
        fields = [field for spec in self._specs for field in spec.fields]
        for field in fields:
            passing = passing.append_column(field, pa.nulls(passing.num_rows, field.type))
        if working.num_rows == 0:
            return passing
        texts = working.column(schema.TEXT).to_pylist()
        results = [
            model(_pixels(working, spec.canvas.name), texts)
            for spec, model in zip(self._specs, self._models, strict=True)
        ]
        annotated = working.select(carried)
        for field in fields:
            annotated = annotated.append_column(
                field, next(r.columns[field.name] for r in results if field.name in r.columns)
            )
        return pa.concat_tables([_mark_broken(annotated, self._specs, results), passing])

    @property
    def _consumed(self) -> set[str]:
        return {schema.TEXT, *(spec.canvas.name for spec in self._specs)}


class Fitting:
    """A model that is given no more rows at once than have fitted into memory so far."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._most = sys.maxsize

    def __call__(self, pixels: torch.Tensor, texts: list[str | None]) -> Results:
        """Raises torch.OutOfMemoryError when not even one row fits."""
        parts: list[Results] = []
        done = 0
        while done < len(texts):
            rows = slice(done, min(done + self._most, len(texts)))
            results = self._try(pixels[rows], texts[rows])
            if results is None:
                self._most = (rows.stop - rows.start) // 2
                torch.cuda.empty_cache()  # only now: while the error was handled, its frames held their tensors
                continue
            parts.append(results)
            done = rows.stop
        names = parts[0].columns
        columns = {name: pa.concat_arrays([part.columns[name] for part in parts]) for name in names}
        return Results(columns, np.concatenate([part.broken for part in parts]))

    def _try(self, pixels: torch.Tensor, texts: list[str | None]) -> Results | None:
        """None when there is no memory for so many rows."""
        try:
            return self._model(pixels, texts)
        except torch.OutOfMemoryError:
            if len(texts) == 1:
                raise
            return None


def _dtype(device: str, precision: str) -> torch.dtype:
    if precision != "auto":
        chosen: torch.dtype = getattr(torch, precision)
        return chosen
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16


def _pixels(table: pa.Table, canvas: str) -> torch.Tensor:
    """uint8 [n, height, width, 3], without a copy when the column is in one piece."""
    column = table.column(canvas).combine_chunks()
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    pixels: np.ndarray[Any, Any] = array.to_numpy_ndarray()
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())


def _mark_broken(table: pa.Table, specs: Sequence[Spec], results: Sequence[Results]) -> pa.Table:
    """Rows for which a model gave NaN or infinity become rejects."""
    broken = np.logical_or.reduce([result.broken for result in results])
    if not broken.any():
        return table
    culprits = [
        ", ".join(spec.kind for spec, result in zip(specs, results, strict=True) if result.broken[row])
        for row in range(table.num_rows)
    ]
    fate = {
        schema.STAGE: [Stage.ANNOTATE.value if bad else None for bad in broken],
        schema.REASON: [Reason.NON_FINITE.value if bad else None for bad in broken],
        schema.MESSAGE: [f"NaN or infinity from {who}" if who else None for who in culprits],
    }
    for name, values in fate.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return table
