"""Where a run's time went, stage by stage, and what would make the next one faster."""

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jobs.driver.resources import Resources
from jobs.driver.run_state import RunState, Tally
from jobs.errors import Stage

_PACKAGES = ("ray", "torch", "transformers", "pyarrow", "pillow", "s3fs")
_ENOUGH = 0.95  # of what the devices take: more input would hardly be noticed


def profile(seen: RunState, resources: Resources) -> dict[str, Any]:
    """For each stage: rows, rows/s while it was at work, the share of that time its workers were busy, and `could`,
    the rows/s they would give without ever waiting. For annotate also the seconds of each phase of a call."""
    resources = resources.with_ready(sum(seen.ran_on.values()))
    source, decode, annotate, sink = (seen.stages.get(stage.value, Tally()) for stage in _ORDER)
    feeding = source.busy + decode.busy  # they share the cores
    stages = {
        Stage.SOURCE.value: _stage(source, source.busy, resources.decode_cpus, feeding),
        Stage.DECODE.value: _stage(decode, decode.busy, resources.decode_cpus, feeding),
        Stage.ANNOTATE.value: _stage(annotate, annotate.phases.get("forward", 0.0), resources.actors * resources.calls),
        Stage.SINK.value: _stage(sink, sink.busy, 1),
    }
    stages[Stage.ANNOTATE.value]["phase_seconds"] = {name: round(spent, 2) for name, spent in annotate.phases.items()}
    return {"stages": stages, "advice": _advice(stages, resources)}


_ORDER = (Stage.SOURCE, Stage.DECODE, Stage.ANNOTATE, Stage.SINK)


def _stage(tally: Tally, busy: float, workers: int, shared: float | None = None) -> dict[str, Any]:
    window = max(tally.last - tally.first, 1e-3)
    return {
        "rows": tally.rows,
        "workers": workers,
        "rows_per_second": round(tally.rows / window, 1),
        "busy_seconds": round(busy, 2),
        "busy": round(min(1.0, busy / (workers * window)), 3),
        "could": round(tally.rows * workers / max(shared or busy, 1e-3), 1),
    }


def _advice(stages: dict[str, Any], resources: Resources) -> str:
    decode, annotate = stages[Stage.DECODE.value], stages[Stage.ANNOTATE.value]
    if not annotate["rows"]:
        return "nothing was annotated"
    feed, take = decode["could"], annotate["could"]
    cores = resources.decode_cpus
    read = f"{cores} cores read and decode" if cores > 1 else "1 core reads and decodes"
    rates = f"{read} {feed:,.0f} rows/s, {_pool(resources)} {take:,.0f}"
    if resources.device == "cpu":
        share = annotate["busy_seconds"] / max(annotate["busy_seconds"] + _feeding(stages), 1e-3)
        return (
            f"{rates}: {share:.0%} of the work is the models', so {'a GPU' if share > 0.5 else 'more cores'} would help"
        )
    if feed < _ENOUGH * take:
        more = math.ceil(resources.decode_cpus * (take / feed - 1) / resources.actors)
        reading = stages[Stage.SOURCE.value]["busy_seconds"] > decode["busy_seconds"]
        why = "; most of that time is reading, so look at the storage first" if reading else ""
        return f"{rates}: add {more} CPU cores per GPU{why}"
    if annotate["busy"] < _ENOUGH:
        return f"{rates}, but the GPUs were busy {annotate['busy']:.0%} of the time: short runs start and end slowly"
    return f"{rates}: the GPUs set the pace, {annotate['busy']:.0%} busy"


def _feeding(stages: dict[str, Any]) -> float:
    return float(stages[Stage.SOURCE.value]["busy_seconds"] + stages[Stage.DECODE.value]["busy_seconds"])


def _pool(resources: Resources) -> str:
    if resources.device == "cpu":
        return "the models take"
    return f"{resources.actors} GPUs take" if resources.actors > 1 else "the GPU takes"


def describe_run(
    *,
    run: str,
    rows: int,
    seconds: float,
    driver_seconds: float,
    seen: RunState,
    resources: Resources,
    cluster: Mapping[str, float],
) -> dict[str, Any]:
    """What one run did, on what, and where its time went."""
    return {
        "id": run,
        "rows": rows,
        "seconds": round(seconds, 2),
        "rows_per_second": round(rows / max(seconds, 1e-3), 2),
        "driver_cpu_seconds": round(driver_seconds, 2),
        **profile(seen, resources),
        "resources": asdict(resources),
        "ran_on": dict(seen.ran_on),
        "images_at_once": dict(seen.micro_batch_sizes),
        "cluster": dict(cluster),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
