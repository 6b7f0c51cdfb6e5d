"""The order of the stages and what each one runs on. Nothing is materialised: blocks stream from stage to stage.

source    read tasks, shards -> raw rows          any CPU
decode    tasks, raw -> decoded rows, 1:1         any CPU
annotate  a fixed pool of actors, decoded -> annotated rows, 1:1     one GPU each, or CPU cores
sink      write tasks, annotated rows -> Parquet objects             a sliver of CPU
"""

import time
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from jobs import row_ranges, schema
from jobs.config import ComputeConfig, JobConfig
from jobs.errors import Stage
from jobs.images.canvas import Canvas
from jobs.images.isolated import SubprocessDecoder, deadline
from jobs.images.render import Render, paint_rows, render
from jobs.meter import Block, Laps, Reporter, Shares, Stopping
from jobs.models import Spec
from jobs.plan import Task
from jobs.resources import WRITE_CPUS, Resources
from jobs.sources import Layout
from jobs.sources.datasource import Reader, ShardDatasource
from jobs.storage import Storage

_RETRIES = 16  # of a task whose process died: each shard of it may kill one
_RESULT_BYTES = 8 << 10  # one annotated row, generously


@dataclass(frozen=True)
class Pipeline:
    """Everything the stages need, ready to build."""

    config: JobConfig
    layout: Layout
    specs: tuple[Spec, ...]
    resources: Resources
    report: Reporter

    def build(self, tasks: tuple[Task, ...]) -> ray.data.Dataset:
        r, compute = self.resources, self.config.compute
        self._configure_ray()
        # With enough read tasks for every core, Ray runs read and decode as one task, and encoded bytes never travel.
        read_cpus = 1.0 if len(tasks) >= 2 * r.decode_cpus else 0.5
        gpu = {"num_gpus": 1} if r.device == "cuda" else {}
        storage, set_aside = Storage(self.config.storage), self.config.limits.unreadable_shards == "set_aside"
        reader = Reader(storage, self.layout, self.report, self.config.fetch, set_aside)
        return (
            ray.data.read_datasource(
                ShardDatasource(tasks, reader), override_num_blocks=len(tasks), num_cpus=read_cpus,
                compute=TaskPoolStrategy(r.decode_cpus), label_selector=dict(compute.decode_on),
                ray_remote_args={"max_retries": _RETRIES},
            )
            .map_batches(
                Decoder(self.config, self.specs, self.report).decode, batch_size=None, batch_format="pyarrow",
                zero_copy_batch=True, num_cpus=1, compute=TaskPoolStrategy(r.decode_cpus), max_retries=_RETRIES,
                label_selector=dict(compute.decode_on),
            )
            .map_batches(
                AnnotateActor, fn_constructor_args=(self.specs, compute, r, self.report),
                batch_size=r.batch_size, batch_format="pyarrow", zero_copy_batch=True,
                num_cpus=r.actor_cpus, max_concurrency=r.calls + 1, label_selector=dict(compute.annotate_on),
                compute=self._pool(), **gpu,
            )
        )  # fmt: skip

    def _pool(self) -> ActorPoolStrategy:
        r = self.resources
        if r.first is None:
            return ActorPoolStrategy(size=r.actors, enable_true_multi_threading=True)
        return ActorPoolStrategy(
            min_size=r.first, initial_size=r.first, max_size=r.actors, enable_true_multi_threading=True
        )

    def write(self, dataset: ray.data.Dataset, sink: ray.data.Datasink[None], run: str) -> None:
        """Under the run's name on Ray's dashboard, and in Ray Data's metrics."""
        dataset.set_name(run)
        dataset.write_datasink(sink, ray_remote_args={"num_cpus": WRITE_CPUS})

    def _configure_ray(self) -> None:
        """Blocks about as big as a batch, so that the pool starts with the first one; and a quiet Ray Data."""
        context = DataContext.get_current()
        row = _RESULT_BYTES + sum(canvas.bytes for canvas in {spec.canvas for spec in self.specs})
        context.target_max_block_size = max(1 << 20, self.resources.batch_size * row)
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.raise_original_map_exception = True
        context.execution_no_progress_timeout_s = -1  # the run's own watch knows what is waited for
        # max_retries has no parameter of its own in this version of Ray, which asks to use that one instead.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")


@dataclass(frozen=True)
class Decoder:
    """The decode stage: knows which canvases the job's models want."""

    config: JobConfig
    specs: tuple[Spec, ...]
    report: Reporter

    def decode(self, raw: pa.Table) -> pa.Table:
        since = time.perf_counter()
        block = _block(raw)
        how = self.report.ask("begin", block)
        if how == "stop":
            return self._painted(raw.slice(0, 0), None)
        decoded = self._isolated(raw) if how == "carefully" else self._in_process(raw)
        self.report.timed(Stage.DECODE.value, since, *_counted(decoded, None), block=block)
        return decoded

    def _in_process(self, raw: pa.Table) -> pa.Table:
        with deadline(self.config.limits.decode_seconds) as watch:

            def by(data: bytes) -> Any:
                watch.restart()
                return render(data, self.config.decode, self.canvases, fast=self.config.compute.canvas == "fast")

            return self._painted(raw, by)

    def _isolated(self, raw: pa.Table) -> pa.Table:
        child = SubprocessDecoder(self.config.decode, self.canvases, self.config.limits.decode_seconds)
        try:
            return self._painted(raw, child)
        finally:
            child.close()

    def _painted(self, raw: pa.Table, by: Render | None) -> pa.Table:
        keep = self.config.output.keep_images != "none"
        return paint_rows(raw, self.config.decode, self.canvases, by, keep_images=keep)

    @property
    def canvases(self) -> list[Canvas]:
        return list(dict.fromkeys(spec.canvas for spec in self.specs))


class AnnotateActor:
    """The annotate stage; torch is imported here, on the machine that runs it, and not before."""

    def __init__(self, specs: tuple[Spec, ...], compute: ComputeConfig, resources: Resources, report: Reporter) -> None:
        from jobs.annotate import Annotator, How

        r, measured = resources, compute.batch_size == "auto"
        how = How(r.device, compute.precision, r.calls, r.threads, r.batch_size, measured, compute.compile)
        self._annotator = Annotator(specs, how)
        self._report, self._stopping, self._said = report, Stopping(report), dict[str, int]()
        report.send("ready", self._annotator.ran_on)

    def __call__(self, decoded: pa.Table) -> pa.Table:
        since = time.perf_counter()
        if self._stopping():
            return self._annotator(decoded.slice(0, 0))
        laps = Laps()
        annotated = self._annotator(decoded, laps)
        self._report.timed(Stage.ANNOTATE.value, since, *_counted(annotated, Stage.ANNOTATE), laps.seconds)
        if (parts := self._annotator.parts) != self._said:
            self._said = parts
            self._report.send("paced", parts)
        return annotated


def _block(raw: pa.Table) -> Block:
    return raw.column(schema.SHARD)[0].as_py(), raw.column(schema.ROW)[0].as_py(), raw.num_rows


def _counted(table: pa.Table, stage: Stage | None) -> tuple[int, Shares]:
    """(input rows, what there is of each shard); rejects of one stage only, where another has counted the rest."""
    fate = table.select(schema.FATE)  # a filter would copy the pixels
    ends = fate.column(schema.END)
    rows = fate.filter(pc.invert(ends))
    rejects = rows.filter(pc.is_valid(rows.column(schema.REASON)))
    if stage is not None:
        rejects = rejects.filter(pc.equal(rejects.column(schema.STAGE), stage.value))
    shares = {
        name: (part, Counter[str]()) for name, part in row_ranges.coverage_with_ends(rows, fate.filter(ends)).items()
    }
    for name, reason in zip(*(rejects.column(name).to_pylist() for name in (schema.SHARD, schema.REASON)), strict=True):
        shares[name][1][reason] += 1
    return rows.num_rows, shares
