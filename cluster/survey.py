"""Survey the machines of a Ray cluster: a small task on each reports versions, GPUs and clock."""

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
    """A machine and its report.

    `skew` is how many seconds its clock is ahead of the driver's, within a round trip. `gpus` are the names that
    nvidia-smi prints. `error` is why it did not answer, or "".
    """

    address: str
    versions: Mapping[str, str]
    resources: Mapping[str, float]
    gpus: tuple[str, ...] = ()
    skew: float = 0.0
    error: str = ""


def survey(packages: Sequence[str], seconds: float = 60.0) -> list[Machine]:
    """Return every live machine, the driver's first. Those that do not answer within `seconds` have an `error`."""
    pending = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            inspect = ray.remote(_inspect).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            pending[node["NodeID"]] = (node, inspect.remote(list(packages)), time.time())
    machines = []
    for node, answer, since in pending.values():
        address, resources = node["NodeManagerAddress"], node["Resources"]
        try:
            versions, gpus, clock = ray.get(answer, timeout=seconds)
            middle = (since + time.time()) / 2
            skew = 0.0 if since <= clock <= time.time() else clock - middle
            machines.append(Machine(address, versions, resources, tuple(gpus), skew))
        except (RayError, GetTimeoutError) as exc:
            machines.append(Machine(address, {}, resources, error=f"{type(exc).__name__}: {exc!s:.200}"))
    here = ray.util.get_node_ip_address()
    return sorted(machines, key=lambda machine: machine.address != here)


def _inspect(packages: list[str]) -> tuple[dict[str, str], list[str], float]:
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions, _gpus(), time.time()


def _gpus() -> list[str]:
    """Return GPU names from nvidia-smi: Ray hides GPUs from torch in a task that requests none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    answer = subprocess.run(
        [tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()] if answer.returncode == 0 else []
