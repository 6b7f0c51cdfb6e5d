"""The actor that holds all of a job's models: decoded rows in, annotated rows out, one to one."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from jobs import schema
from jobs.errors import ClusterError, Reason, Reject, Stage
from jobs.models import Model, Results, Spec
from jobs.models.batching import BatchTuner, FixedSize, Placement
from jobs.models.dual import Embedder
from jobs.models.vit import Labeller
from jobs.models.weights import folder_of

_KINDS: dict[str, Callable[..., Model]] = {"vit": Labeller, "align": Embedder}


@dataclass(frozen=True)
class ExecutionOptions:
    """`device` is "cuda" or "cpu", decided where the job was planned; `precision` a torch dtype's name, or "auto".

    So many `calls` are on the device at once, each with so many CPU `threads`. Images go through a model `batch` at
    once, or in parts of it where `measured` finds those faster, or `compiled` for just so many.
    """

    device: str
    precision: str = "auto"
    calls: int = 1
    threads: int = 1
    batch: int = 32
    measured: bool = False
    compiled: bool = False

    def placement(self, spec: Spec) -> Placement:
        """For one of the models."""
        device, dtype = torch.device(self.device), _dtype(spec.kind, self.device, self.precision)
        if self.compiled or not self.measured:
            return Placement(device, dtype, FixedSize(self.batch), self.compiled)
        name = torch.cuda.get_device_name() if self.device == "cuda" else f"{self.threads} CPU threads"
        return Placement(
            device, dtype, BatchTuner(f"{spec.weights.revision}, {spec.kind}, {dtype}, {name}", device, self.batch)
        )


class Stopwatch:
    """A stopwatch for the phases of one call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, phase: str) -> None:
        """What has passed since the last lap was this phase."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now


class Annotator:
    """Every model of the job, loaded once. May be called by many threads: `calls` of them are on the device at once,
    others prepare. A GPU that is missing here is an error, never a silent CPU run."""

    def __init__(self, specs: Sequence[Spec], options: ExecutionOptions) -> None:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise ClusterError("an actor was given a GPU, but CUDA cannot be used there", "is torch a CUDA build?")
        torch.set_num_threads(options.threads)
        if options.precision == "float32":
            torch.backends.cudnn.allow_tf32 = False  # on a GPU, convolutions would keep ten bits of each number
        self._specs, self._device = specs, torch.device(options.device)
        self._on = {spec.kind: options.placement(spec) for spec in specs}
        self._models = [
            _KINDS[spec.kind](spec, folder_of(spec.kind, spec.weights), self._on[spec.kind]) for spec in specs
        ]
        self._on_device = threading.Semaphore(options.calls)

    @property
    def ran_on(self) -> str:
        """Device and precisions, as recorded in the output."""
        name = torch.cuda.get_device_name() if self._device.type == "cuda" else "CPU"
        names = dict.fromkeys(str(on.dtype).removeprefix("torch.") for on in self._on.values())
        return f"{name} {', '.join(names)}"

    @property
    def micro_batch_sizes(self) -> dict[str, int]:
        """Images at once, for each model whose fastest number is known."""
        return {kind: on.tuner.best for kind, on in self._on.items() if on.tuner.best}

    def __call__(self, decoded: pa.Table, stopwatch: Stopwatch | None = None) -> pa.Table:
        """Rows that are good get every model's columns; rejects and ends pass with nulls."""
        stopwatch = stopwatch or Stopwatch()
        good = pc.and_(pc.is_null(decoded.column(schema.REASON)), pc.invert(decoded.column(schema.END)))
        consumed = {spec.canvas.name for spec in self._specs}
        if schema.IMAGE not in decoded.column_names:  # kept images keep their texts
            consumed.add(schema.TEXT)
        carried = [name for name in decoded.column_names if name not in consumed]
        passing = decoded.filter(pc.invert(good)).select(carried)
        working = decoded if passing.num_rows == 0 else decoded.filter(good)  # a filter copies the pixels
        fields = [field for spec in self._specs for field in spec.fields]
        for field in fields:
            passing = passing.append_column(field, pa.nulls(passing.num_rows, field.type))
        if working.num_rows == 0:
            return passing
        results = self._results(working, stopwatch)
        annotated = working.select(carried)
        for field in fields:
            annotated = annotated.append_column(
                field, next(r.columns[field.name] for r in results if field.name in r.columns)
            )
        table = pa.concat_tables([_mark_broken(annotated, self._specs, results), passing])
        stopwatch.lap("output")
        return table

    def _results(self, working: pa.Table, stopwatch: Stopwatch) -> list[Results]:
        texts = working.column(schema.TEXT).to_pylist()
        names = dict.fromkeys(spec.canvas.name for spec in self._specs)
        pixels = {name: self._moved(pixels_of(working, name)) for name in names}
        prepared = [model.prepare(texts) for model in self._models]
        stopwatch.lap("prepare")
        with self._on_device:
            stopwatch.lap("queue")
            outputs = [
                model.forward(pixels[spec.canvas.name], given)
                for spec, model, given in zip(self._specs, self._models, prepared, strict=True)
            ]
            stopwatch.lap("forward")
        return [model.columns(output) for model, output in zip(self._models, outputs, strict=True)]

    def _moved(self, pixels: torch.Tensor) -> torch.Tensor:
        """On the device. The copy runs beside another thread's forward pass: from pinned memory, in its own stream."""
        if self._device.type == "cpu":
            return pixels
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            moved = pixels.pin_memory().to(self._device, non_blocking=True)
        stream.synchronize()
        return moved


def _dtype(kind: str, device: str, precision: str) -> torch.dtype:
    """On a GPU, the best of what costs half. Encoders in float16: cosines are multiplied by up to 100 for zero-shot
    logits, and EfficientNet with folded batch norms loses least in it."""
    if precision != "auto":
        chosen: torch.dtype = getattr(torch, precision)
        return chosen
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if kind == "vit" and torch.cuda.get_device_capability() >= (8, 0) else torch.float16


def gpus_here() -> int:
    """GPUs that torch can use on this machine."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def pixels_of(table: pa.Table, canvas: str) -> torch.Tensor:
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
    rejects = {}
    for row in np.flatnonzero(broken).tolist():
        culprits = ", ".join(spec.kind for spec, result in zip(specs, results, strict=True) if result.broken[row])
        rejects[row] = Reject(Reason.NON_FINITE, f"NaN or infinity from {culprits}")
    return schema.mark_rejects(table, Stage.ANNOTATE, rejects)
