"""Prometheus metrics of a run, exported through Ray's metrics port on each node.

Ray adds the prefix `ray_` to each name. cluster/grafana.json is a dashboard for them.
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
    "coyo_jobs_rows": ("rows that a stage has produced", schema.REJECT_STAGE),
    "coyo_jobs_busy_seconds": ("busy seconds of a stage's processes", schema.REJECT_STAGE),
    "coyo_jobs_rejects": ("rows without a result, by reason", schema.REJECT_REASON),
    "coyo_jobs_phase_seconds": ("seconds of an actor's calls: prepare, queue, forward, output", "phase"),
}
GAUGES = {
    "coyo_jobs_shards_left": "shards not yet read to the end",
    "coyo_jobs_device_waiting_ratio": "share of the time since the first batch during which the devices were idle",
}


class Metrics:
    """The metrics of one run that reads `shards` shards."""

    def __init__(self, output: str, shards: int, resources: Resources) -> None:
        self._shards, self._resources = shards, resources
        self._counters = {n: Counter(n, description, ("output", tag)) for n, (description, tag) in COUNTERS.items()}
        self._gauges = {name: Gauge(name, description, ("output",)) for name, description in GAUGES.items()}
        for metric in (*self._counters.values(), *self._gauges.values()):
            metric.set_default_tags({"output": quote(output, safe=string.printable)})  # Ray takes ASCII only
        self._before: dict[tuple[str, str], float] = {}

    def update(self, seen: RunState) -> None:
        """Add what has changed since the last call."""
        for (name, value), total in totals(seen).items():
            more = total - self._before.get((name, value), 0.0)
            if more > 0:
                self._counters[name].inc(more, {COUNTERS[name][1]: value})
                self._before[name, value] = total
        self._gauges["coyo_jobs_shards_left"].set(self._shards - seen.finished_shards)
        self._gauges["coyo_jobs_device_waiting_ratio"].set(idle_share(seen, self._resources))


def totals(seen: RunState) -> dict[tuple[str, str], float]:
    """Return the count so far by (metric, tag value)."""
    counts: dict[tuple[str, str], float] = {}
    for stage, tally in seen.stages.items():
        counts["coyo_jobs_rows", stage] = tally.rows
        counts["coyo_jobs_busy_seconds", stage] = tally.busy
    counts |= {("coyo_jobs_rejects", reason): count for reason, count in seen.reasons.items()}
    phases: dict[str, Any] = seen.stages[Stage.ANNOTATE.value].phases if Stage.ANNOTATE.value in seen.stages else {}
    return counts | {("coyo_jobs_phase_seconds", phase): seconds for phase, seconds in phases.items()}


def idle_share(seen: RunState, resources: Resources) -> float:
    """Return the idle share of the pool's call slots: 0 if all were always busy, 1 if none ever was."""
    tally = seen.stages.get(Stage.ANNOTATE.value)
    if tally is None or tally.last <= tally.first:
        return 0.0
    calls = resources.with_ready(sum(seen.ran_on.values())).actors * resources.calls
    return max(0.0, 1.0 - tally.phases.get("forward", 0.0) / (calls * (tally.last - tally.first)))
