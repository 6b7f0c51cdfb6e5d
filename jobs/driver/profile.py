"""The profile of a run: rates and busy time per stage, and advice on what would make the next run faster."""

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
_ENOUGH = 0.95  # share of the devices' rate; above it more decoding hardly helps


def profile(seen: RunState, resources: Resources) -> dict[str, Any]:
    """Return `stages` and `advice`.

    Each stage has its rows, its rows/s from first to last report, the busy share of its workers in that time, and
    `could`: the rows/s if its workers never waited. Annotate also has the seconds of each phase of its calls.
    """
    resources = resources.with_ready(sum(seen.ran_on.values()))
    source, decode, annotate, sink = (seen.stages.get(stage.value, Tally()) for stage in _ORDER)
    feeding = source.busy + decode.busy  # both stages share the cores
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
        remedy = "a GPU" if share > 0.5 else "more cores"
        return f"{rates}: model inference takes {share:.0%} of CPU time; {remedy} would help"
    if feed < _ENOUGH * take:
        more = math.ceil(resources.decode_cpus * (take / feed - 1) / resources.actors)
        reading = stages[Stage.SOURCE.value]["busy_seconds"] > decode["busy_seconds"]
        why = "; most of that time is reading, so check the storage first" if reading else ""
        return f"{rates}: add {more} CPU cores per GPU{why}"
    if annotate["busy"] < _ENOUGH:
        return f"{rates}, but the GPUs were busy only {annotate['busy']:.0%} of the time: start-up dominates short runs"
    return f"{rates}: the GPUs are the bottleneck, {annotate['busy']:.0%} busy"


def _feeding(stages: dict[str, Any]) -> float:
    return float(stages[Stage.SOURCE.value]["busy_seconds"] + stages[Stage.DECODE.value]["busy_seconds"])


def _pool(resources: Resources) -> str:
    if resources.device == "cpu":
        return "the models process"
    return f"{resources.actors} GPUs process" if resources.actors > 1 else "the GPU processes"


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
    """Return the `run` section of the summary: rates, profile, resources, cluster and package versions."""
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
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions
