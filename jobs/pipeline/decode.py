"""The decode stage: raw blocks in, decoded blocks out, one to one; each image is decoded once for all models."""

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
    """The decode stage: knows which canvases the job's models want."""

    config: JobConfig
    specs: tuple[Spec, ...]
    coordinator: CoordinatorHandle

    def decode(self, raw: pa.Table) -> pa.Table:
        since = time.perf_counter()
        block = _block(raw)
        instruction = self.coordinator.begin_block(block)
        if instruction is Instruction.STOP:
            return self._painted(raw.slice(0, 0), None)
        decoded = self._isolated(raw) if instruction is Instruction.ISOLATE else self._in_process(raw)
        rows, deltas = count_rows(decoded, None)
        self.coordinator.record_work(Stage.DECODE, rows, time.perf_counter() - since, deltas, block=block)
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


def _block(raw: pa.Table) -> BlockId:
    return BlockId(raw.column(schema.SHARD)[0].as_py(), raw.column(schema.ROW)[0].as_py(), raw.num_rows)
