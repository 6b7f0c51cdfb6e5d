"""The source stage: a Ray Data datasource with one read task per group of units."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from jobs import schema
from jobs.config import FetchConfig
from jobs.driver.coordinator import CoordinatorHandle, StopSignal
from jobs.errors import Stage, StorageError
from jobs.row_ranges import coverage_by_shard
from jobs.sources import Layout, ReadUnit
from jobs.sources.discover import read
from jobs.storage import Storage


@dataclass(frozen=True)
class Reader:
    """Reads units one by one and reports to the coordinator.

    When the run is stopping it ends early, without the row that marks the end of the shard. With `set_aside` it reports
    a shard that storage refuses and continues; otherwise it raises StorageError.
    """

    storage: Storage
    layout: Layout
    coordinator: CoordinatorHandle
    fetch: FetchConfig
    set_aside: bool = False

    def __call__(self, units: Iterable[ReadUnit]) -> Iterator[pa.Table]:
        stopping = StopSignal(self.coordinator)
        for unit in units:
            try:
                yield from self._unit(unit, stopping)
            except StorageError as exc:
                if not self.set_aside:
                    exc.log_fields[schema.SHARD] = unit.shard.name
                    raise
                self.coordinator.set_aside(unit.shard.name, exc.message)
            if stopping():
                return

    def _unit(self, unit: ReadUnit, stopping: StopSignal) -> Iterator[pa.Table]:
        since = time.perf_counter()
        rows = accounted = 0
        for table in read(self.storage, self.layout, unit, self.fetch):
            ends = table.filter(table.column(schema.END))
            self.coordinator.record_work(Stage.SOURCE, table.num_rows - ends.num_rows, time.perf_counter() - since)
            rows += table.num_rows - ends.num_rows
            accounted += sum(
                part.span for part in coverage_by_shard(table.filter(pc.invert(table.column(schema.END)))).values()
            )
            closing = ends.filter(pc.is_valid(ends.column(schema.TOTAL)))
            if closing.num_rows and unit.last:  # a unit that meets damage ends with a row of its own, too
                left = closing.column(schema.TOTAL)[0].as_py() - sum(stop - start for start, stop in unit.done)
                selected = round(left * rows / accounted) if accounted else 0
                self.coordinator.finish_shard(unit.shard.name, unit.shard.entry.size, selected, unit.done)
            if table.num_rows:
                yield table
            if stopping():
                return
            since = time.perf_counter()


class ShardDatasource(Datasource):  # type: ignore[misc]  # Ray is not typed
    """A datasource with one Ray read task per task of the plan."""

    def __init__(self, tasks: Iterable[tuple[ReadUnit, ...]], reader: Reader) -> None:
        super().__init__()
        self._tasks, self._reader = list(tasks), reader

    def get_name(self) -> str:
        return Stage.SOURCE.value

    def estimate_inmemory_data_size(self) -> int | None:
        return sum(unit.shard.entry.size for units in self._tasks for unit in units)

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        return [
            ReadTask(_bind(self._reader, units), _block_metadata(units), self._reader.layout.schema)
            for units in self._tasks
        ]


def _bind(reader: Reader, units: tuple[ReadUnit, ...]) -> Callable[[], Iterator[pa.Table]]:
    return lambda: reader(units)


def _block_metadata(units: tuple[ReadUnit, ...]) -> BlockMetadata:
    size = sum(unit.shard.entry.size for unit in units)
    return BlockMetadata(num_rows=None, size_bytes=size, input_files=None, exec_stats=None)
