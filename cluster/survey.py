"""What every machine of a Ray cluster has: asked of each one, by a small task that runs there."""

import importlib.metadata
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@dataclass(frozen=True)
class Machine:
    """`skew` is how far its clock is ahead of the driver's, in seconds, give or take a round trip; `gpus` are those
    that nvidia-smi shows there. `error` says why it did not answer."""

    address: str
    versions: Mapping[str, str]
    resources: Mapping[str, float]
    gpus: tuple[str, ...] = ()
    skew: float = 0.0
    error: str = ""


def survey(packages: Sequence[str], seconds: float = 60.0) -> list[Machine]:
    """Every machine that is alive, the driver's first; one that does not answer in time is there with its error."""
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            look = ray.remote(_look).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            asked[node["NodeID"]] = (node, look.remote(list(packages)), time.time())
    found = []
    for node, answer, since in asked.values():
        address, resources = node["NodeManagerAddress"], node["Resources"]
        try:
            versions, gpus, clock = ray.get(answer, timeout=seconds)
            middle = (since + time.time()) / 2
            skew = 0.0 if since <= clock <= time.time() else clock - middle
            found.append(Machine(address, versions, resources, tuple(gpus), skew))
        except (RayError, GetTimeoutError) as exc:
            found.append(Machine(address, {}, resources, error=f"{type(exc).__name__}: {exc!s:.200}"))
    here = ray.util.get_node_ip_address()
    return sorted(found, key=lambda machine: machine.address != here)


def _look(packages: list[str]) -> tuple[dict[str, str], list[str], float]:
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions, _gpus(), time.time()


def _gpus() -> list[str]:
    """By the driver's own tool: without a GPU lent to this task, Ray hides all of them from torch."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    answer = subprocess.run(
        [tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()] if answer.returncode == 0 else []
