"""A run's counts for Prometheus, through Ray: each node of a cluster shows them at its metrics port.

Ray puts `ray_` before each name; cluster/grafana.json draws them.
"""

import string
from typing import Any
from urllib.parse import quote

from ray.util.metrics import Counter, Gauge

from jobs import schema
from jobs.driver.resources import Resources
from jobs.driver.run_state import RunState
from jobs.errors import Stage

COUNTERS = {
    "coyo_jobs_rows": ("rows that a stage has given", schema.REJECT_STAGE),
    "coyo_jobs_busy_seconds": ("seconds that a stage's processes were at work", schema.REJECT_STAGE),
    "coyo_jobs_rejects": ("rows without a result, by reason", schema.REJECT_REASON),
    "coyo_jobs_phase_seconds": ("seconds of an actor's calls: prepare, queue, forward, output", "phase"),
}
GAUGES = {
    "coyo_jobs_shards_left": "shards that are not read to their end",
    "coyo_jobs_device_waiting_ratio": "share of the time since the first batch that the devices had nothing to do",
}


class Metrics:
    """Of one run on these resources, with so many shards to read."""

    def __init__(self, output: str, shards: int, resources: Resources) -> None:
        self._shards, self._resources = shards, resources
        self._counters = {n: Counter(n, says, ("output", tag)) for n, (says, tag) in COUNTERS.items()}
        self._gauges = {name: Gauge(name, says, ("output",)) for name, says in GAUGES.items()}
        for metric in (*self._counters.values(), *self._gauges.values()):
            metric.set_default_tags({"output": quote(output, safe=string.printable)})  # Ray takes ASCII only
        self._before: dict[tuple[str, str], float] = {}

    def show(self, seen: RunState) -> None:
        """What is new since the last time."""
        for (name, value), total in totals(seen).items():
            more = total - self._before.get((name, value), 0.0)
            if more > 0:
                self._counters[name].inc(more, {COUNTERS[name][1]: value})
                self._before[name, value] = total
        self._gauges["coyo_jobs_shards_left"].set(self._shards - seen.finished_shards)
        self._gauges["coyo_jobs_device_waiting_ratio"].set(waiting(seen, self._resources))


def totals(seen: RunState) -> dict[tuple[str, str], float]:
    """(metric, its tag's value) -> the count so far."""
    found: dict[tuple[str, str], float] = {}
    for stage, tally in seen.stages.items():
        found["coyo_jobs_rows", stage] = tally.rows
        found["coyo_jobs_busy_seconds", stage] = tally.busy
    found |= {("coyo_jobs_rejects", reason): count for reason, count in seen.reasons.items()}
    phases: dict[str, Any] = seen.stages[Stage.ANNOTATE.value].phases if Stage.ANNOTATE.value in seen.stages else {}
    return found | {("coyo_jobs_phase_seconds", phase): seconds for phase, seconds in phases.items()}


def waiting(seen: RunState, resources: Resources) -> float:
    """0 when every call that the pool can have under way at once always was, 1 when none was."""
    tally = seen.stages.get(Stage.ANNOTATE.value)
    if tally is None or tally.last <= tally.first:
        return 0.0
    calls = resources.with_ready(sum(seen.ran_on.values())).actors * resources.calls
    return max(0.0, 1.0 - tally.phases.get("forward", 0.0) / (calls * (tally.last - tally.first)))
