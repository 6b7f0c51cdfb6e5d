"""The stages in order, and what each runs on. Nothing is materialised: blocks stream from stage to stage.

source    read tasks: shards -> raw rows                            1 or 0.5 CPU per task
decode    map tasks: raw rows -> decoded rows, one to one           1 CPU per task
annotate  pool of actors: decoded rows -> annotated rows, one to one    one GPU or some CPUs per actor
sink      write tasks: annotated rows -> Parquet objects            0.25 CPU per task
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

_RETRIES = 16  # of a task whose process died: each of its shards may kill one process
_RESULT_BYTES = 8 << 10  # upper estimate of one annotated row without pixels


@dataclass(frozen=True)
class Pipeline:
    """Builds the Ray Data pipeline of one job."""

    config: JobConfig
    layout: Layout
    specs: tuple[Spec, ...]
    resources: Resources
    coordinator: CoordinatorHandle

    def build(self, tasks: tuple[Task, ...]) -> ray.data.Dataset:
        """Return the lazy dataset of annotated rows that these read tasks produce."""
        r, compute = self.resources, self.config.compute
        self._configure_ray()
        # Ray fuses read and decode if both request the same CPUs; encoded bytes then skip the object store. With few
        # read tasks fusion would leave cores idle: request 0.5 CPU to prevent it.
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
        """Execute the dataset into the sink. `run` is its name on Ray's dashboard and in Ray Data's metrics."""
        dataset.set_name(run)
        dataset.write_datasink(sink, ray_remote_args={"num_cpus": WRITE_CPUS})

    def _configure_ray(self) -> None:
        """Make blocks about as big as a batch, so that actors start with the first block, and silence Ray Data."""
        context = DataContext.get_current()
        row = _RESULT_BYTES + sum(canvas.nbytes for canvas in {spec.canvas for spec in self.specs})
        context.target_max_block_size = max(1 << 20, self.resources.batch_size * row)
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.raise_original_map_exception = True
        context.execution_no_progress_timeout_s = -1  # the supervisor knows what the run waits for
        # Ray 2.60 warns about ray_remote_args, but has no other parameter for max_retries.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
