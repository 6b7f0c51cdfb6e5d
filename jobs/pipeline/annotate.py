"""The annotate stage: an actor that holds all models of the job."""

import time

import pyarrow as pa

from jobs.config import ComputeConfig
from jobs.driver.coordinator import CoordinatorHandle, StopSignal, count_rows
from jobs.driver.resources import Resources
from jobs.errors import Stage
from jobs.models import Spec
from jobs.models.annotator import Stopwatch


class AnnotateActor:
    """Turns decoded batches into annotated rows, one to one. Only this actor's process imports torch."""

    def __init__(
        self, specs: tuple[Spec, ...], compute: ComputeConfig, resources: Resources, coordinator: CoordinatorHandle
    ) -> None:
        from jobs.models.annotator import Annotator, ExecutionOptions

        r, measured = resources, compute.batch_size == "auto"
        options = ExecutionOptions(
            r.device, compute.precision, r.calls, r.threads, r.batch_size, measured, compute.compile
        )
        self._annotator = Annotator(specs, options)
        self._coordinator, self._stopping = coordinator, StopSignal(coordinator)
        self._sizes: dict[str, int] = {}
        coordinator.actor_ready(self._annotator.device_summary)

    def __call__(self, decoded: pa.Table) -> pa.Table:
        since = time.perf_counter()
        if self._stopping():
            return self._annotator(decoded.slice(0, 0))
        stopwatch = Stopwatch()
        annotated = self._annotator(decoded, stopwatch)
        rows, deltas = count_rows(annotated, Stage.ANNOTATE)
        seconds = time.perf_counter() - since
        self._coordinator.record_work(Stage.ANNOTATE, rows, seconds, deltas, stopwatch.seconds)
        if (sizes := self._annotator.micro_batch_sizes) != self._sizes:
            self._sizes = sizes
            self._coordinator.micro_batch_chosen(sizes)
        return annotated
