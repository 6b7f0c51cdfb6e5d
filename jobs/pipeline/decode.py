"""The decode stage: raw blocks become decoded blocks, row by row. Each image is decoded once, for all models."""

import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from jobs import schema
from jobs.config import JobConfig
from jobs.driver.coordinator import CoordinatorHandle, Instruction, count_rows
from jobs.driver.run_state import BlockId
from jobs.errors import Stage
from jobs.images.canvas import Canvas
from jobs.images.isolated import SubprocessDecoder, deadline
from jobs.images.render import Render, paint_rows, render
from jobs.models import Spec


@dataclass(frozen=True)
class Decoder:
    """Decodes blocks onto the canvases that the job's models take."""

    config: JobConfig
    specs: tuple[Spec, ...]
    coordinator: CoordinatorHandle

    def decode(self, raw: pa.Table) -> pa.Table:
        """Return the decoded rows of a raw block, or none when the run is stopping."""
        since = time.perf_counter()
        block = _block_id(raw)
        instruction = self.coordinator.begin_block(block)
        if instruction is Instruction.STOP:
            return self._paint(raw.slice(0, 0), None)
        decoded = self._isolated(raw) if instruction is Instruction.ISOLATE else self._in_process(raw)
        rows, deltas = count_rows(decoded, None)
        self.coordinator.record_work(Stage.DECODE, rows, time.perf_counter() - since, deltas, block=block)
        return decoded

    def _in_process(self, raw: pa.Table) -> pa.Table:
        with deadline(self.config.limits.decode_seconds) as watch:

            def decode_image(data: bytes) -> Any:
                watch.restart()
                return render(data, self.config.decode, self.canvases, fast=self.config.compute.canvas == "fast")

            return self._paint(raw, decode_image)

    def _isolated(self, raw: pa.Table) -> pa.Table:
        child = SubprocessDecoder(self.config.decode, self.canvases, self.config.limits.decode_seconds)
        try:
            return self._paint(raw, child)
        finally:
            child.close()

    def _paint(self, raw: pa.Table, decode_image: Render | None) -> pa.Table:
        keep = self.config.output.keep_images != "none"
        return paint_rows(raw, self.config.decode, self.canvases, decode_image, keep_images=keep)

    @property
    def canvases(self) -> list[Canvas]:
        """The distinct canvases of the models, in order."""
        return list(dict.fromkeys(spec.canvas for spec in self.specs))


def _block_id(raw: pa.Table) -> BlockId:
    """Return the identity of a raw block with at least one row."""
    return BlockId(raw.column(schema.SHARD)[0].as_py(), raw.column(schema.ROW)[0].as_py(), raw.num_rows)
