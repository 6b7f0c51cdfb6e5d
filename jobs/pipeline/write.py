"""The write stage: each write task turns its annotated blocks into output objects.

An object's name is made from the run and the task's index, so a task that Ray repeats replaces its own objects.
"""

import time
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import Datasink

from jobs import schema
from jobs.driver.coordinator import CoordinatorHandle
from jobs.errors import Stage
from jobs.output.writer import Writer


class ParquetSink(Datasink[None]):  # type: ignore[misc]  # Ray is not typed
    """A Ray Data sink that hands blocks to the writer."""

    def __init__(self, writer: Writer, rows_per_file: int, coordinator: CoordinatorHandle) -> None:
        self._writer, self._rows, self._coordinator = writer, rows_per_file, coordinator

    def write(self, blocks: Iterable[Block], ctx: Any) -> None:
        since = time.perf_counter()
        tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]
        tables = [table for table in tables if table.num_rows]
        if not tables:
            return
        table = pa.concat_tables([table.select(self._writer.annotated.names) for table in tables]).combine_chunks()
        self._writer.write(table, f"part-{self._writer.run_metadata['run']}-{ctx.task_idx:06d}.parquet")
        rows = table.num_rows - (pc.sum(table.column(schema.END)).as_py() or 0)
        self._coordinator.record_work(Stage.SINK, rows, time.perf_counter() - since)

    def get_name(self) -> str:
        return Stage.SINK.value

    @property
    def min_rows_per_write(self) -> int:
        return self._rows
