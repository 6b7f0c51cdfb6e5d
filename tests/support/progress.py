"""The state of a run at some point, as its progress shows it."""

from collections import Counter

from jobs.driver.coordinator import Coordinator
from jobs.driver.progress import Progress, measure
from jobs.driver.run_state import RunState
from jobs.driver.tasks import Work
from jobs.errors import Stage
from jobs.row_ranges import Coverage

FRESH = Work(tasks=(), shards=10, shards_done=0, rows_done=0, bytes_left=10_000)


def after(source: int, annotated: int, finished: int = 0) -> RunState:
    """Every shard of the work is 1,000 bytes and 5,000 rows."""
    coordinator = Coordinator()
    coordinator.record_work(Stage.SOURCE, source, 1.0, {}, {})
    rows = Coverage(((0, annotated),))
    for _ in range(2):  # what Ray repeats counts once
        coordinator.record_work(Stage.ANNOTATE, annotated, 1.0, {"shard 0": (rows, Counter())}, {})
        coordinator.record_work(Stage.DECODE, annotated, 1.0, {"shard 0": (rows, Counter(truncated=2, no_image=1))}, {})
    for shard in range(finished):
        coordinator.finish_shard(f"shard {shard}", 1_000, 5_000)
    return coordinator.snapshot()


def now(seen: RunState, work: Work, seconds: float, state: str = "running") -> Progress:
    return measure(run="r1", state=state, seen=seen, work=work, seconds=seconds)
