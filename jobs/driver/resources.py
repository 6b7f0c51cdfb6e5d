"""What runs on what: from the recipe and the nodes that Ray has, decided once; on a cluster, when they have come.

Everything that is given CPUs must fit on one node beside the rest: what never fits waits for ever, without an error.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.claims import Claim
from cluster.local import Session
from cluster.nodes import Bundle, Node, asking
from jobs.config import ComputeConfig, OutputConfig, PoolConfig
from jobs.errors import ClusterError

WRITE_CPUS = 0.25  # a write waits for the network, not for a core
_CPU_CALLS = 4
_ACTOR_CORES = 16  # one torch process does not scale beyond
_GPU_ACTOR_CPUS = 0.5
_FEWEST = 2  # CPUs
_LOOK_EVERY = 1.0  # seconds


@dataclass(frozen=True)
class Resources:
    """An actor runs so many `calls` of its models at once, each with so many CPU `threads`, and prepares one more.
    `actors` are there from the start, or the most of a pool that begins with `first`."""

    device: str
    actors: int
    actor_cpus: float
    calls: int
    threads: int
    decode_cpus: int
    batch_size: int
    rows_per_file: int
    first: int | None = None

    def __str__(self) -> str:
        gpu = self.device == "cuda"
        count = self.actors if gpu else self.actors * self.calls * self.threads
        several = f"{self.first} to {count}" if self.first else count
        pool = f"{several} {'GPU' if gpu else 'CPU'}{'s' * (count != 1)}"
        cpus = f"{self.decode_cpus} CPU{'s' * (self.decode_cpus != 1)}"
        return f"annotate on {pool}, batches of {self.batch_size}; decode on {cpus}"

    @property
    def claimed(self) -> tuple[float, float]:
        """GPUs and CPUs that the actors take when the run begins."""
        actors = self.first or self.actors
        return float(actors if self.device == "cuda" else 0), actors * self.actor_cpus

    def with_ready(self, actors: int) -> "Resources":
        """As it was, when so many actors have become ready; those of a pool that did not grow come again and again."""
        return self if self.first is None else replace(self, actors=min(self.actors, max(self.first, actors)))


class NotYet(ClusterError):
    """What was asked for is not there; on a cluster it may come, with nodes that have room for `bundles`."""

    def __init__(self, message: str, hint: str, bundles: Sequence[Bundle]) -> None:
        super().__init__(message, hint)
        self.bundles = tuple(bundles)


def settle(
    compute: ComputeConfig, output: OutputConfig, session: Session, tell: Callable[[str, float], None]
) -> Resources:
    """What to run on, as soon as it is there. While it is coming, which only a cluster's nodes do, `tell` hears what
    is missing and for how many seconds. Raises ClusterError when it does not come."""
    if session.own:
        return decide(compute, output, session.nodes())
    since = time.monotonic()
    with asking() as ask:
        while True:
            try:
                nodes = session.nodes()
                resources = decide(compute, output, nodes, grows=True)
                check_claims(resources, compute, nodes, session.claims())
                return resources
            except NotYet as exc:
                waited = time.monotonic() - since
                if waited >= compute.wait_seconds:
                    told = f"waited {waited:,.0f} s (compute.wait_seconds); the same command tries again"
                    raise ClusterError(exc.message, f"{told}. {exc.hint}") from exc
                ask(exc.bundles)
                tell(exc.message, waited)
            time.sleep(_LOOK_EVERY)


def decide(compute: ComputeConfig, output: OutputConfig, nodes: Sequence[Node], *, grows: bool = False) -> Resources:
    """On these nodes, and with `grows` on more decoding cores than they have. Raises ClusterError when what was asked
    for is not there."""
    annotating = [node for node in nodes if node.fits(compute.annotate_on)]
    decoding = [node for node in nodes if node.cpus >= 1 and node.fits(compute.decode_on)]
    there = gpus_of(annotating)
    gpu = compute.device != "cpu" and (there > 0 or compute.device == "cuda" or compute.gpus != "auto")
    if gpu:
        _check_gpus(compute, there)
    _check_cpus(compute, nodes, decoding, gpu)
    if gpu:
        actors, calls, threads = _most(compute, there), 1, 2
        each = _gpu_actor_cpus(annotating, decoding)
        shared = min(actors, gpus_of(node for node in decoding if node in annotating))
    else:
        actors, calls, threads, each = _cpu_pool(annotating, decoding)
        shared = actors if any(node in annotating for node in decoding) else 0
    free = max(1, int(sum(node.cpus for node in decoding) - shared * each - WRITE_CPUS))
    wanted = compute.decode_cpus
    return Resources(
        device="cuda" if gpu else "cpu",
        actors=actors,
        actor_cpus=each,
        calls=calls,
        threads=threads,
        decode_cpus=free if wanted == "auto" else wanted if grows else min(wanted, free),
        batch_size=compute.batch_size if isinstance(compute.batch_size, int) else 128 if gpu else 32,
        rows_per_file=output.rows_per_file if isinstance(output.rows_per_file, int) else _rows_per_file(gpu, output),
        first=compute.gpus.min if gpu and isinstance(compute.gpus, PoolConfig) else None,
    )


def check_claims(resources: Resources, compute: ComputeConfig, nodes: Sequence[Node], others: Sequence[Claim]) -> None:
    """Raises NotYet where other runs have taken what the actors need, or the core that each run decodes on."""
    gpus, cpus = resources.claimed
    taken = sum(each.gpus for each in others)
    cores = sum(node.cpus for node in nodes) - sum(each.cpus for each in others) - len(others) - 1
    if not others or (gpus + taken <= gpus_of(nodes) and cpus <= cores):
        return
    runs = ", ".join(each.run for each in others)
    needs = f"{gpus:g} GPUs" if gpus else f"{cpus:g} CPUs"
    raise NotYet(
        f"this run takes {needs}, and the cluster has too little beside what other runs have: {runs}",
        "compute.gpus gives each run its share, in numbers; on CPU one run goes on at a time",
        _bundles(compute, int(gpus + taken)),
    )


def gpus_of(nodes: Any) -> int:
    return sum(int(node.gpus) for node in nodes)


def least_gpus(compute: ComputeConfig) -> int:
    """GPUs without which a run on GPUs does not begin."""
    if isinstance(compute.gpus, PoolConfig):
        return compute.gpus.min
    return compute.gpus if isinstance(compute.gpus, int) else 1


def _most(compute: ComputeConfig, there: int) -> int:
    if isinstance(compute.gpus, PoolConfig):
        return compute.gpus.max
    return compute.gpus if isinstance(compute.gpus, int) else there


def _check_gpus(compute: ComputeConfig, there: int) -> None:
    least = least_gpus(compute)
    if there >= least:
        return
    on = f" on nodes with {_labels(compute.annotate_on)}" if compute.annotate_on else ""
    bundles = _bundles(compute, least)
    if compute.gpus == "auto":
        hint = "compute.device: auto runs on CPU where there is none"
        raise NotYet(f"compute.device is cuda, but Ray sees no GPU{on}", hint, bundles)
    hint = "compute.gpus: auto takes what is there"
    name = "compute.gpus.min" if isinstance(compute.gpus, PoolConfig) else "compute.gpus"
    raise NotYet(f"{name} is {least}, but Ray sees {there}{on}", hint, bundles)


def _check_cpus(compute: ComputeConfig, nodes: Sequence[Node], decoding: Sequence[Node], gpu: bool) -> None:
    bundles = _bundles(compute, least_gpus(compute) if gpu else 0)
    cpus = int(sum(node.cpus for node in nodes))
    if cpus < _FEWEST:
        raise NotYet(
            f"Ray sees {cpus} CPU; a job needs {_FEWEST}: one to decode, and some for the rest",
            "start Ray with more: ray start --num-cpus, or num_cpus of its nodes",
            bundles,
        )
    if not decoding:
        raise NotYet(
            f"no node with {_labels(compute.decode_on)} has a CPU to decode on",
            "compute.decode_on names labels of nodes (ray start --labels, or the group's labels)",
            bundles,
        )
    if not gpu and not any(node.fits(compute.annotate_on) and node.cpus >= 1 for node in nodes):
        raise NotYet(
            f"no node with {_labels(compute.annotate_on)} has a CPU to annotate on",
            "compute.annotate_on names labels of nodes (ray start --labels, or the group's labels)",
            bundles,
        )


def _labels(selector: Any) -> str:
    return ", ".join(f"{name}: {wanted}" for name, wanted in selector.items())


def _bundles(compute: ComputeConfig, gpus: int) -> list[Bundle]:
    """Room for the GPUs, and for the cores that decode; where nothing has a GPU, for one that annotates."""
    annotate: Bundle = ({"GPU": 1}, compute.annotate_on) if gpus else ({"CPU": 1}, compute.annotate_on)
    cores = 1 if compute.decode_cpus == "auto" else compute.decode_cpus
    return [annotate] * max(1, gpus) + [({"CPU": 1}, compute.decode_on)] * max(_FEWEST, cores)


def _gpu_actor_cpus(annotating: Sequence[Node], decoding: Sequence[Node]) -> float:
    """So many that a node's actors fit on it, and that one node has a core left to decode on."""
    with_gpus = [node for node in annotating if node.gpus >= 1]
    most = min([_GPU_ACTOR_CPUS, *(node.cpus / int(node.gpus) for node in with_gpus)])
    if shared := gpus_of(node for node in decoding if node in with_gpus):
        most = min(most, (sum(node.cpus for node in decoding) - 1 - WRITE_CPUS) / shared)
    if all(node in with_gpus for node in decoding):
        most = min(most, max((node.cpus - 1) / int(node.gpus) for node in decoding))
    return max(0.0, most)


def _cpu_pool(annotating: Sequence[Node], decoding: Sequence[Node]) -> tuple[int, int, int, float]:
    """(actors, calls and threads of each, its CPUs): on each node one for every 16 cores, with half of its node's."""
    able = [(node, max(1, int(node.cpus) // _ACTOR_CORES)) for node in annotating if node.cpus >= 1]

    def count(each: float) -> int:
        return sum(min(most, int(node.cpus / 2 / each + 1e-9)) for node, most in able)

    each = max((node.cpus / 2 / most for node, most in able), key=lambda each: (count(each) * each, each))
    actors, cores = count(each), int(2 * each)
    # Threads of one call wait for each other, and for the decoders beside them: several calls of few are faster.
    calls = max(1, min(_CPU_CALLS, cores))
    if all(node in annotating for node in decoding):
        if actors > 1 and max(node.cpus - most * each for node, most in able) < 1:
            actors -= 1  # and one node decodes
        each = min(each, (sum(node.cpus for node in decoding) - 1 - WRITE_CPUS) / actors)
    return actors, calls, max(1, cores // calls), each


def _rows_per_file(gpu: bool, output: OutputConfig) -> int:
    """With images, 2048 of COYO's are about 0.1 GB: a writer holds them all."""
    rows = 8192 if gpu else 1024
    return rows if output.keep_images == "none" else min(rows, 2048)
