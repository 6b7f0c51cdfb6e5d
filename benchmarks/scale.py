"""How many GPUs one driver can feed: Ray Data with actors that sleep for a GPU's batch time, and the coordinator.

    python -m benchmarks.scale [--actors 1 8 32] [--batch-seconds 0.1] [--seconds 30]

Rows have no pixels: this measures the cost per block. Efficiency is the share of the blocks that the sleeping actors
could have taken. On few cores the actor processes dominate the cost. A driver with enough cores is limited by its one
scheduling thread: see its CPU time per block, beside that of the whole driver. The coordinator is one process, too, and
is called several times per block.
"""

import argparse
import threading
import time
from collections import Counter

import pyarrow as pa
import ray
from ray.actor import ActorHandle
from ray.data import ActorPoolStrategy, DataContext

from jobs.driver.coordinator import Coordinator, StopSignal
from jobs.driver.remote import RemoteCoordinator
from jobs.driver.run_state import BlockId
from jobs.errors import Stage
from jobs.row_ranges import Coverage

ROWS = 128


class Sleeper:
    def __init__(self, seconds: float) -> None:
        self._seconds, self._device = seconds, threading.Lock()

    def __call__(self, batch: pa.Table) -> pa.Table:
        with self._device:
            time.sleep(self._seconds)
        return batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--batch-seconds", type=float, default=0.1)
    parser.add_argument("--seconds", type=float, default=30)
    args = parser.parse_args()
    ray.init("local", num_cpus=max(args.actors) + 4, include_dashboard=False, log_to_driver=False)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    print("actors  blocks/s  efficiency  CPU ms per block: scheduling thread, driver")
    for actors in args.actors:
        rate, scheduling, cost = fed(actors, args.batch_seconds, args.seconds)
        efficiency = rate * args.batch_seconds / actors
        print(f"{actors:6d}  {rate:8.1f}  {efficiency:10.2f}  {scheduling * 1e3:8.2f} {cost * 1e3:8.2f}", flush=True)
    rate, cost = coordinator_rate()
    print(f"the coordinator handled {rate:,.0f} blocks/s, at {cost * 1e3:.2f} CPU ms each")


def fed(actors: int, batch_seconds: float, seconds: float) -> tuple[float, float, float]:
    """Return blocks/s, and CPU seconds per block of the scheduling thread and of the whole driver."""
    blocks = max(20, round(actors * seconds / batch_seconds))
    dataset = (
        ray.data.range(blocks * ROWS, override_num_blocks=blocks)
        .map_batches(
            Sleeper, fn_constructor_args=(batch_seconds,), batch_size=ROWS, batch_format="pyarrow", num_cpus=0.5,
            max_concurrency=2, compute=ActorPoolStrategy(size=actors, enable_true_multi_threading=True),
        )
    )  # fmt: skip
    passed, seen = 0.0, list[tuple[float, float, float, float]]()
    for bundle in dataset.iter_internal_ref_bundles():
        passed += (bundle.num_rows() or 0) / ROWS
        if (scheduler := _scheduler()) is not None:  # None after the last block
            seen.append((passed, time.perf_counter(), scheduler, time.process_time()))
    blocks_seen, spent, scheduling, cost = (last - first for first, last in zip(seen[0], seen[-1], strict=True))
    return blocks_seen / spent, scheduling / blocks_seen, cost / blocks_seen


def _scheduler() -> float | None:
    """Return the CPU seconds of Ray Data's scheduling thread, or None if there is none."""
    for thread in threading.enumerate():
        if thread.name.startswith("StreamingExecutor") and thread.ident is not None:
            return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return None


class Sender:
    """Sends the coordinator what the stages send for each block."""

    def __init__(self, actor: ActorHandle, name: str) -> None:
        self._coordinator, self._shard = RemoteCoordinator(actor), name

    def blocks(self, first: int, last: int) -> None:
        coordinator, stopping = self._coordinator, [StopSignal(self._coordinator) for _ in range(2)]
        for at in range(first, last):
            rows = range(at * ROWS, (at + 1) * ROWS)
            deltas = {self._shard: (Coverage(((rows.start, rows.stop),)), Counter[str]())}
            block = BlockId(self._shard, rows.start, ROWS)
            stopping[0]()
            coordinator.record_work(Stage.SOURCE, ROWS, 0.1)
            coordinator.begin_block(block)
            coordinator.record_work(Stage.DECODE, ROWS, 0.1, deltas, block=block)
            stopping[1]()
            coordinator.record_work(Stage.ANNOTATE, ROWS, 0.1, deltas, {"forward": 0.1})


class MeasuredCoordinator(Coordinator):
    def cpu_seconds(self) -> float:
        return time.process_time()


def coordinator_rate(senders: int = 4, blocks: int = 1000) -> tuple[float, float]:
    """Return the blocks/s that a coordinator handles, and its CPU seconds per block."""
    coordinator = ray.remote(MeasuredCoordinator).remote()
    actors = [ray.remote(Sender).options(num_cpus=0.1).remote(coordinator, f"shard {i}") for i in range(senders)]
    ray.get([sender.blocks.remote(0, 10) for sender in actors])
    since, before = time.perf_counter(), ray.get(coordinator.cpu_seconds.remote())
    ray.get([sender.blocks.remote(10, 10 + blocks) for sender in actors])
    spent, cost = time.perf_counter() - since, ray.get(coordinator.cpu_seconds.remote()) - before
    return senders * blocks / spent, cost / senders / blocks


if __name__ == "__main__":
    main()
