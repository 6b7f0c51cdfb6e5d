"""What one driver feeds: the job's own stages and sink, with actors that only sleep for a GPU's batch time.

    python -m benchmarks.scale [--actors 1 8 32] [--batch-seconds 0.1] [--seconds 30]

Rows carry no pixels, so that what is measured is Ray Data's and our cost for each block. Efficiency is the blocks that
passed over those the sleeping actors could have taken. On few cores the actors' own processes are most of the cost: the
driver's share is its CPU time for each block, which bounds what it can feed on a machine of its own.
"""

import argparse
import threading
import time

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

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
    print("actors  blocks/s  efficiency  driver CPU ms per block")
    for actors in args.actors:
        rate, cost = fed(actors, args.batch_seconds, args.seconds)
        print(f"{actors:6d}  {rate:8.1f}  {rate * args.batch_seconds / actors:10.2f}  {cost * 1000:8.2f}", flush=True)


def fed(actors: int, batch_seconds: float, seconds: float) -> tuple[float, float]:
    """Blocks each second, and the driver's CPU seconds for each."""
    blocks = max(20, round(actors * seconds / batch_seconds))
    dataset = (
        ray.data.range(blocks * ROWS, override_num_blocks=blocks)
        .map_batches(
            Sleeper, fn_constructor_args=(batch_seconds,), batch_size=ROWS, batch_format="pyarrow", num_cpus=0.5,
            max_concurrency=2, compute=ActorPoolStrategy(size=actors, enable_true_multi_threading=True),
        )
    )  # fmt: skip
    began: float | None = None
    cpu = passed = 0.0
    for bundle in dataset.iter_internal_ref_bundles():
        if began is None:  # the actors are there
            began, cpu = time.perf_counter(), time.process_time()
            continue
        passed += (bundle.num_rows() or 0) / ROWS
    spent = time.perf_counter() - (began or 0.0)
    return passed / spent, (time.process_time() - cpu) / max(passed, 1)


if __name__ == "__main__":
    main()
