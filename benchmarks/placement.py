"""Compare decoding in CPU tasks, with uint8 canvases in the object store, and in threads of the actor.

    python -m benchmarks.placement [--rows 2000] [--rounds 3] [--home DIR]

The actor copies its input once out of the object store, as for a GPU, and runs no model: this measures how fast it can
be fed. Prints rows per second, and CPU seconds of all processes per 1,000 rows. The canvases are those of
vit-large-patch16-384 and align-base.
"""

import argparse
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from benchmarks import HOME, checkpoints, corpus
from benchmarks.throughput import job
from jobs.config import JobConfig
from jobs.driver.coordinator import Coordinator
from jobs.driver.tasks import plan_tasks
from jobs.models import Spec
from jobs.models.annotator import canvas_tensor
from jobs.pipeline.decode import Decoder
from jobs.pipeline.read import Reader, ShardDatasource
from jobs.sources.discover import discover
from jobs.storage import Storage

_BATCH, _ENCODED = 128, 50_000  # rows; bytes per encoded image of COYO


class Taker:
    """Handles decoded rows like an actor before it calls its models."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def __call__(self, decoded: pa.Table) -> pa.Table:
        for name in self._names:
            canvas_tensor(decoded, name).clone()
        return decoded.select([name for name in decoded.column_names if name not in self._names])


class DecodingTaker(Taker):
    """Handles encoded rows: decodes them in threads first."""

    def __init__(self, names: list[str], decoder: Decoder, threads: int) -> None:
        super().__init__(names)
        self._decoder, self._threads = decoder, ThreadPoolExecutor(threads)

    def __call__(self, raw: pa.Table) -> pa.Table:
        part = -(-raw.num_rows // self._threads._max_workers)
        parts = [raw.slice(start, part) for start in range(0, raw.num_rows, part)]
        return super().__call__(pa.concat_tables(self._threads.map(self._decode, parts)))

    def _decode(self, raw: pa.Table) -> pa.Table:
        from jobs.images.render import render

        d = self._decoder
        return d._paint(raw, lambda data: render(data, d.config.decode, d.canvases, fast=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, default=HOME)
    args = parser.parse_args()
    source = args.home / f"corpus-{args.rows}x125"
    corpus.write(source, args.rows, 125)
    folder = checkpoints.write(args.home / "small", "small")
    config, specs = job(source, args.home / "none", folder), checkpoints.specs(folder)
    cores = os.cpu_count() or 1
    ray.init("local", num_cpus=cores + 1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    rates: dict[str, list[tuple[float, float]]] = {"in tasks": [], "in the actor": []}
    for _ in range(args.rounds):
        for where, results in rates.items():
            results.append(fed(config, specs, where, cores, args.rows))
            print(f"{where:13s} {results[-1][0]:7.1f} rows/s  {results[-1][1]:6.2f} CPU s per 1,000 rows", flush=True)
    ratio = statistics.median(a[0] / b[0] for a, b in zip(*rates.values(), strict=True))
    print(f"rows/s in tasks over in the actor: {ratio:.2f}")


def fed(config: JobConfig, specs: tuple[Spec, ...], where: str, cores: int, rows: int) -> tuple[float, float]:
    """Return rows/s after the first block, and CPU seconds per 1,000 rows."""
    storage = Storage()
    source = discover(storage, config.source)
    work = plan_tasks(storage, source, {}, cores=cores)
    coordinator = Coordinator()
    reader = Reader(storage, source.layout, coordinator, config.fetch)
    decoder, names = Decoder(config, specs, coordinator), [spec.canvas.name for spec in specs]
    reading = cores if where == "in tasks" else 1
    canvases = sum(canvas.nbytes for canvas in {spec.canvas for spec in specs})
    DataContext.get_current().target_max_block_size = _BATCH * (canvases if where == "in tasks" else _ENCODED)
    dataset = ray.data.read_datasource(
        ShardDatasource(work.tasks, reader), override_num_blocks=len(work.tasks), num_cpus=1,
        compute=TaskPoolStrategy(reading),
    )  # fmt: skip
    options: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
    if where == "in tasks":
        dataset = dataset.map_batches(
            decoder.decode, batch_size=None, num_cpus=1, compute=TaskPoolStrategy(cores), **options
        )
        actor: tuple[Any, ...] = (Taker, (names,))
    else:
        actor = (DecodingTaker, (names, decoder, cores))
    dataset = dataset.map_batches(
        actor[0], fn_constructor_args=actor[1], batch_size=_BATCH, num_cpus=0.5, max_concurrency=2,
        compute=ActorPoolStrategy(size=1, enable_true_multi_threading=True), **options,
    )  # fmt: skip
    began, cpu, first, passed = 0.0, 0.0, 0, 0
    for bundle in dataset.iter_internal_ref_bundles():
        if not began:
            began, cpu, first = time.perf_counter(), used(), bundle.num_rows() or 0
            continue
        passed += bundle.num_rows() or 0
    assert passed + first >= rows
    return passed / (time.perf_counter() - began), (used() - cpu) / passed * 1000


def used() -> float:
    """Return CPU seconds of this process and its live descendants."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


if __name__ == "__main__":
    main()
