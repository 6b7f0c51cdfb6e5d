"""A run without Ray: its driver, stages and storage are the real ones, but all of them are in this process, one block
after the other.

For claims about what a run does, which take a fraction of a second this way. What Ray has a part in is tested with it:
processes that die, signals, nodes, tasks that run at once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import pyarrow as pa
import pytest
from ray.exceptions import RayTaskError

from cluster.local import Session
from cluster.nodes import Node
from jobs.config import JobConfig
from jobs.driver.coordinator import Coordinator, CoordinatorHandle
from jobs.driver.resources import Resources, wait_for_resources
from jobs.driver.run_state import RunState
from jobs.driver.tasks import Task
from jobs.errors import JobError
from jobs.models import Spec
from jobs.pipeline.annotate import AnnotateActor
from jobs.pipeline.decode import Decoder
from jobs.pipeline.read import Reader
from jobs.pipeline.write import ParquetSink
from jobs.sources import Layout
from jobs.storage import Storage

_SESSION = Session(True, lambda: [Node("here", 2)])


@contextmanager
def without_ray() -> Iterator[None]:
    """`jobs.run.run` needs no Ray, and starts none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.run.local", SimpleNamespace(session=_session))
        patch.setattr("jobs.run.reserve_resources", _reserved)
        patch.setattr("jobs.run.Pipeline", InProcess)
        patch.setattr("jobs.run.Metrics", lambda *_: _Unseen())
        yield


@dataclass(frozen=True)
class InProcess:
    """What `jobs.pipeline.Pipeline` does, without Ray Data."""

    config: JobConfig
    layout: Layout
    specs: tuple[Spec, ...]
    resources: Resources
    coordinator: CoordinatorHandle

    def build(self, tasks: tuple[Task, ...]) -> Iterator[pa.Table]:
        set_aside = self.config.limits.unreadable_shards == "set_aside"
        reader = Reader(Storage(self.config.storage), self.layout, self.coordinator, self.config.fetch, set_aside)
        decoder = Decoder(self.config, self.specs, self.coordinator)
        annotate = AnnotateActor(self.specs, self.config.compute, self.resources, self.coordinator)
        size = self.resources.batch_size
        for task in tasks:
            for raw in reader(task):
                decoded = decoder.decode(raw)
                for start in range(0, decoded.num_rows, size):
                    yield annotate(decoded.slice(start, size))

    def write(self, annotated: Iterator[pa.Table], sink: ParquetSink, run: str) -> None:
        """What a stage raises arrives as from Ray, with the stage's error as its cause."""
        try:
            for number, tables in enumerate(_files(annotated, sink.min_rows_per_write)):
                sink.write(tables, SimpleNamespace(task_idx=number))
        except JobError as exc:
            raise RayTaskError(run, "", exc) from exc


class _Unseen:
    """Metrics that nobody looks at."""

    def update(self, state: RunState) -> None:
        pass


def _files(tables: Iterator[pa.Table], rows: int) -> Iterator[list[pa.Table]]:
    """As many tables for each write as make up this many rows."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(each.num_rows for each in held) >= rows:
            yield held
            held = []
    if held:
        yield held


@contextmanager
def _reserved(
    run: str, config: JobConfig, session: Session, tell: Callable[[str, float], None]
) -> Iterator[tuple[Resources, CoordinatorHandle]]:
    yield wait_for_resources(config.compute, config.output, session, tell), Coordinator()


@contextmanager
def _session(packages: Sequence[str]) -> Iterator[Session]:
    yield _SESSION
