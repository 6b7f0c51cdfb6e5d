"""Run all models of a job on one device: decoded rows in, annotated rows out, 1:1."""

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
from jobs.models.batching import BatchTuner, FixedSize, InferenceOptions
from jobs.models.dual import DualEncoder
from jobs.models.vit import ImageClassifier
from jobs.models.weights import local_folder

_MODEL_CLASSES: dict[str, Callable[..., Model]] = {"vit": ImageClassifier, "align": DualEncoder}


@dataclass(frozen=True)
class ExecutionOptions:
    """How an annotator runs its models.

    `device` is "cuda" or "cpu"; the plan has decided it. `precision` is the name of a torch dtype, or "auto".
    `calls` run on the device at the same time, each with `threads` CPU threads.
    A model takes at most `batch_size` images at once. `tune_batch_size` times smaller micro-batches and uses the
    fastest size. `compile` applies torch.compile, for exactly `batch_size` images, and is never tuned.
    """

    device: str
    precision: str = "auto"
    calls: int = 1
    threads: int = 1
    batch_size: int = 32
    tune_batch_size: bool = False
    compile: bool = False

    def for_model(self, spec: Spec) -> InferenceOptions:
        """Choose device, dtype and micro-batch size for one of the models."""
        device, dtype = torch.device(self.device), _dtype(spec.kind, self.device, self.precision)
        if self.compile or not self.tune_batch_size:
            return InferenceOptions(device, dtype, FixedSize(self.batch_size), self.compile)
        name = torch.cuda.get_device_name() if self.device == "cuda" else f"{self.threads} CPU threads"
        key = f"{spec.weights.revision}, {spec.kind}, {dtype}, {name}"
        return InferenceOptions(device, dtype, BatchTuner(key, device, self.batch_size))


class Stopwatch:
    """Seconds that one call has spent in each of its phases."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Add the time since the last lap, or since the start, to `phase`."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now


class Annotator:
    """All models of a job, loaded once on one device.

    Threads may call it at the same time: `options.calls` of them use the device, the others prepare or wait.
    Raises ClusterError for a missing GPU (it never falls back to the CPU), CheckpointError for damaged weights.
    """

    def __init__(self, specs: Sequence[Spec], options: ExecutionOptions) -> None:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise ClusterError(
                "the actor has a GPU, but torch cannot use CUDA on its node", "check that torch is a CUDA build"
            )
        torch.set_num_threads(options.threads)
        if options.precision == "float32":
            torch.backends.cudnn.allow_tf32 = False  # on a GPU, convolutions would keep ten bits of each number
        self._specs, self._device = specs, torch.device(options.device)
        self._options = {spec.kind: options.for_model(spec) for spec in specs}
        self._models = [
            _MODEL_CLASSES[spec.kind](spec, local_folder(spec.kind, spec.weights), self._options[spec.kind])
            for spec in specs
        ]
        self._device_slots = threading.Semaphore(options.calls)

    @property
    def device_summary(self) -> str:
        """Device and dtypes as the output records them, e.g. "CPU float32"."""
        name = torch.cuda.get_device_name() if self._device.type == "cuda" else "CPU"
        dtypes = dict.fromkeys(str(options.dtype).removeprefix("torch.") for options in self._options.values())
        return f"{name} {', '.join(dtypes)}"

    @property
    def micro_batch_sizes(self) -> dict[str, int]:
        """Images per micro-batch, by model; models that are still being timed are left out."""
        return {kind: options.tuner.best_size for kind, options in self._options.items() if options.tuner.best_size}

    def __call__(self, decoded: pa.Table, stopwatch: Stopwatch | None = None) -> pa.Table:
        """Add every model's columns. Rejects and shard ends get nulls and come last."""
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
        table = pa.concat_tables([_reject_non_finite(annotated, self._specs, results), passing])
        stopwatch.lap("output")
        return table

    def _results(self, working: pa.Table, stopwatch: Stopwatch) -> list[Results]:
        texts = working.column(schema.TEXT).to_pylist()
        names = dict.fromkeys(spec.canvas.name for spec in self._specs)
        pixels = {name: self._to_device(canvas_tensor(working, name)) for name in names}
        prepared = [model.prepare(texts) for model in self._models]
        stopwatch.lap("prepare")
        with self._device_slots:
            stopwatch.lap("queue")
            outputs = [
                model.forward(pixels[spec.canvas.name], inputs)
                for spec, model, inputs in zip(self._specs, self._models, prepared, strict=True)
            ]
            stopwatch.lap("forward")
        return [model.to_results(output) for model, output in zip(self._models, outputs, strict=True)]

    def _to_device(self, pixels: torch.Tensor) -> torch.Tensor:
        """Copy to the device from pinned memory in a separate stream, so it overlaps another thread's forward pass."""
        if self._device.type == "cpu":
            return pixels
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            on_device = pixels.pin_memory().to(self._device, non_blocking=True)
        stream.synchronize()
        return on_device


def _dtype(kind: str, device: str, precision: str) -> torch.dtype:
    """Choose the dtype for "auto": float32 on a CPU, a 16-bit type on a GPU.

    Encoders get float16: zero-shot logits multiply cosines by up to 100, and EfficientNet with folded batch norms
    loses less precision in float16 than in bfloat16.
    """
    if precision != "auto":
        chosen: torch.dtype = getattr(torch, precision)
        return chosen
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if kind == "vit" and torch.cuda.get_device_capability() >= (8, 0) else torch.float16


def local_gpu_count() -> int:
    """Count the GPUs that torch can use on this machine."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def canvas_tensor(table: pa.Table, canvas: str) -> torch.Tensor:
    """The canvas column as uint8 [n, height, width, 3]; not copied if the column is one writable chunk."""
    column = table.column(canvas).combine_chunks()
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    pixels: np.ndarray[Any, Any] = array.to_numpy_ndarray()
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())


def _reject_non_finite(table: pa.Table, specs: Sequence[Spec], results: Sequence[Results]) -> pa.Table:
    """Reject the rows for which a model returned NaN or infinity."""
    non_finite = np.logical_or.reduce([result.non_finite for result in results])
    if not non_finite.any():
        return table
    rejects = {}
    for row in np.flatnonzero(non_finite).tolist():
        culprits = ", ".join(spec.kind for spec, result in zip(specs, results, strict=True) if result.non_finite[row])
        rejects[row] = Reject(Reason.NON_FINITE, f"NaN or infinity from {culprits}")
    return schema.mark_rejects(table, Stage.ANNOTATE, rejects)
