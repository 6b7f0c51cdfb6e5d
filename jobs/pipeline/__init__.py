"""The order of the stages and what each one runs on. Nothing is materialised: blocks stream from stage to stage.

source    read tasks, shards -> raw rows          any CPU
decode    tasks, raw -> decoded rows, 1:1         any CPU
annotate  a fixed pool of actors, decoded -> annotated rows, 1:1     one GPU each, or CPU cores
sink      write tasks, annotated rows -> Parquet objects             a sliver of CPU
"""

import warnings
from dataclasses import dataclass

import ray.data
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from jobs.config import JobConfig
from jobs.driver.coordinator import CoordinatorHandle
from jobs.driver.resources import WRITE_CPUS, Resources
from jobs.driver.tasks import Task
from jobs.models import Spec
from jobs.pipeline.annotate import AnnotateActor
from jobs.pipeline.decode import Decoder
from jobs.pipeline.read import Reader, ShardDatasource
from jobs.sources import Layout
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
    coordinator: CoordinatorHandle

    def build(self, tasks: tuple[Task, ...]) -> ray.data.Dataset:
        r, compute = self.resources, self.config.compute
        self._configure_ray()
        # With enough read tasks for every core, Ray runs read and decode as one task, and encoded bytes never travel.
        read_cpus = 1.0 if len(tasks) >= 2 * r.decode_cpus else 0.5
        gpu = {"num_gpus": 1} if r.device == "cuda" else {}
        storage, set_aside = Storage(self.config.storage), self.config.limits.unreadable_shards == "set_aside"
        reader = Reader(storage, self.layout, self.coordinator, self.config.fetch, set_aside)
        return (
            ray.data.read_datasource(
                ShardDatasource(tasks, reader), override_num_blocks=len(tasks), num_cpus=read_cpus,
                compute=TaskPoolStrategy(r.decode_cpus), label_selector=dict(compute.decode_on),
                ray_remote_args={"max_retries": _RETRIES},
            )
            .map_batches(
                Decoder(self.config, self.specs, self.coordinator).decode, batch_size=None, batch_format="pyarrow",
                zero_copy_batch=True, num_cpus=1, compute=TaskPoolStrategy(r.decode_cpus), max_retries=_RETRIES,
                label_selector=dict(compute.decode_on),
            )
            .map_batches(
                AnnotateActor, fn_constructor_args=(self.specs, compute, r, self.coordinator),
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
        row = _RESULT_BYTES + sum(canvas.nbytes for canvas in {spec.canvas for spec in self.specs})
        context.target_max_block_size = max(1 << 20, self.resources.batch_size * row)
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.raise_original_map_exception = True
        context.execution_no_progress_timeout_s = -1  # the run's own watch knows what is waited for
        # max_retries has no parameter of its own in this version of Ray, which asks to use that one instead.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
