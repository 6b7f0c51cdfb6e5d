"""Choose what each stage runs on, from the recipe and Ray's nodes. On a cluster, wait until the nodes are there.

Each actor and task must fit on one node beside the others: Ray never schedules what does not fit, and raises no error.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.claims import Claim
from cluster.local import Session
from cluster.nodes import Bundle, Node, requesting_nodes
from jobs.config import ComputeConfig, OutputConfig, PoolConfig
from jobs.errors import ClusterError

WRITE_CPUS = 0.25  # per write task, which mostly waits for the network
_CPU_CALLS = 4  # concurrent calls of an actor on CPU, at most
_ACTOR_CORES = 16  # one torch process does not scale beyond
_GPU_ACTOR_CPUS = 0.5
_MIN_CPUS = 2
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Resources:
    """The resources of a run.

    `actors` is the size of the actor pool. With `first` the pool starts with `first` actors and grows to `actors`. An
    actor runs `calls` of its models at once, each on `threads` CPU threads, and prepares one more.
    """

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
        amount = f"{self.first} to {count}" if self.first else count
        pool = f"{amount} {'GPU' if gpu else 'CPU'}{'s' * (count != 1)}"
        cpus = f"{self.decode_cpus} CPU{'s' * (self.decode_cpus != 1)}"
        return f"annotate on {pool}, batches of {self.batch_size}; decode on {cpus}"

    @property
    def claimed(self) -> tuple[float, float]:
        """GPUs and CPUs that the actors take at the start of the run."""
        actors = self.first or self.actors
        return float(actors if self.device == "cuda" else 0), actors * self.actor_cpus

    def with_ready(self, actors: int) -> "Resources":
        """Return these resources with the number of actors that became ready, within the bounds of a growing pool.

        Restarted actors count again, hence the bounds.
        """
        return self if self.first is None else replace(self, actors=min(self.actors, max(self.first, actors)))


class InsufficientResources(ClusterError):
    """The nodes lack what the run needs. On a cluster, new nodes with room for `bundles` may still join."""

    def __init__(self, message: str, hint: str, bundles: Sequence[Bundle]) -> None:
        super().__init__(message, hint)
        self.bundles = tuple(bundles)


def wait_for_resources(
    compute: ComputeConfig, output: OutputConfig, session: Session, report: Callable[[str, float], None]
) -> Resources:
    """Wait until the nodes have what the run needs, and return it. Ask the autoscaler for nodes meanwhile.

    While it waits it calls `report` with what is missing and the seconds waited. Raises ClusterError after
    compute.wait_seconds, and at once on a Ray that was started here, which never grows.
    """
    if session.own:
        return choose_resources(compute, output, session.nodes())
    since = time.monotonic()
    with requesting_nodes() as request:
        while True:
            try:
                nodes = session.nodes()
                resources = choose_resources(compute, output, nodes, grows=True)
                check_claims(resources, compute, nodes, session.claims())
                return resources
            except InsufficientResources as exc:
                waited = time.monotonic() - since
                if waited >= compute.wait_seconds:
                    gave_up = f"waited {waited:,.0f} s (compute.wait_seconds); run the same command to try again"
                    raise ClusterError(exc.message, f"{gave_up}. {exc.hint}") from exc
                request(exc.bundles)
                report(exc.message, waited)
            time.sleep(_POLL_SECONDS)


def choose_resources(
    compute: ComputeConfig, output: OutputConfig, nodes: Sequence[Node], *, grows: bool = False
) -> Resources:
    """Choose resources on these nodes. With `grows`, compute.decode_cpus may exceed the cores that are there.

    Raises InsufficientResources if the nodes lack what the recipe asks for.
    """
    annotating = [node for node in nodes if node.fits(compute.annotate_on)]
    decoding = [node for node in nodes if node.cpus >= 1 and node.fits(compute.decode_on)]
    there = count_gpus(annotating)
    gpu = compute.device != "cpu" and (there > 0 or compute.device == "cuda" or compute.gpus != "auto")
    if gpu:
        _check_gpus(compute, there)
    _check_cpus(compute, nodes, decoding, gpu)
    if gpu:
        actors, calls, threads = _max_gpus(compute, there), 1, 2
        actor_cpus = _gpu_actor_cpus(annotating, decoding)
        shared = min(actors, count_gpus(node for node in decoding if node in annotating))
    else:
        actors, calls, threads, actor_cpus = _cpu_pool(annotating, decoding)
        shared = actors if any(node in annotating for node in decoding) else 0
    free = max(1, int(sum(node.cpus for node in decoding) - shared * actor_cpus - WRITE_CPUS))
    wanted = compute.decode_cpus
    return Resources(
        device="cuda" if gpu else "cpu",
        actors=actors,
        actor_cpus=actor_cpus,
        calls=calls,
        threads=threads,
        decode_cpus=free if wanted == "auto" else wanted if grows else min(wanted, free),
        batch_size=compute.batch_size if isinstance(compute.batch_size, int) else 128 if gpu else 32,
        rows_per_file=output.rows_per_file if isinstance(output.rows_per_file, int) else _rows_per_file(gpu, output),
        first=compute.gpus.min if gpu and isinstance(compute.gpus, PoolConfig) else None,
    )


def check_claims(resources: Resources, compute: ComputeConfig, nodes: Sequence[Node], others: Sequence[Claim]) -> None:
    """Raise InsufficientResources if the other runs leave too few GPUs or CPUs for the actors and a decoding core."""
    gpus, cpus = resources.claimed
    taken = sum(claim.gpus for claim in others)
    cores = sum(node.cpus for node in nodes) - sum(claim.cpus for claim in others) - len(others) - 1
    if not others or (gpus + taken <= count_gpus(nodes) and cpus <= cores):
        return
    runs = ", ".join(claim.run for claim in others)
    needs = f"{gpus:g} GPUs" if gpus else f"{cpus:g} CPUs"
    raise InsufficientResources(
        f"this run needs {needs}, and other runs leave too few: {runs}",
        "set compute.gpus to a number in each recipe, to share the GPUs; on CPU, runs take turns",
        _bundles(compute, int(gpus + taken)),
    )


def count_gpus(nodes: Iterable[Node]) -> int:
    return sum(int(node.gpus) for node in nodes)


def min_gpus(compute: ComputeConfig) -> int:
    """Return how many GPUs a run on GPUs needs to start."""
    if isinstance(compute.gpus, PoolConfig):
        return compute.gpus.min
    return compute.gpus if isinstance(compute.gpus, int) else 1


def _max_gpus(compute: ComputeConfig, there: int) -> int:
    if isinstance(compute.gpus, PoolConfig):
        return compute.gpus.max
    return compute.gpus if isinstance(compute.gpus, int) else there


def _check_gpus(compute: ComputeConfig, there: int) -> None:
    least = min_gpus(compute)
    if there >= least:
        return
    on = f" on nodes with {_labels(compute.annotate_on)}" if compute.annotate_on else ""
    bundles = _bundles(compute, least)
    if compute.gpus == "auto":
        hint = "compute.device: auto runs on CPU if there is no GPU"
        raise InsufficientResources(f"compute.device is cuda, but Ray sees no GPU{on}", hint, bundles)
    hint = "compute.gpus: auto uses the GPUs that are there"
    name = "compute.gpus.min" if isinstance(compute.gpus, PoolConfig) else "compute.gpus"
    raise InsufficientResources(f"{name} is {least}, but Ray sees {there}{on}", hint, bundles)


def _check_cpus(compute: ComputeConfig, nodes: Sequence[Node], decoding: Sequence[Node], gpu: bool) -> None:
    bundles = _bundles(compute, min_gpus(compute) if gpu else 0)
    cpus = int(sum(node.cpus for node in nodes))
    if cpus < _MIN_CPUS:
        raise InsufficientResources(
            f"Ray sees {cpus} CPU; a job needs {_MIN_CPUS}: one to decode, and one for everything else",
            "start Ray with more: ray start --num-cpus, or num_cpus of its nodes",
            bundles,
        )
    if not decoding:
        raise InsufficientResources(
            f"no node with {_labels(compute.decode_on)} has a CPU to decode on",
            "compute.decode_on names labels of nodes (ray start --labels, or the group's labels)",
            bundles,
        )
    if not gpu and not any(node.fits(compute.annotate_on) and node.cpus >= 1 for node in nodes):
        raise InsufficientResources(
            f"no node with {_labels(compute.annotate_on)} has a CPU to annotate on",
            "compute.annotate_on names labels of nodes (ray start --labels, or the group's labels)",
            bundles,
        )


def _labels(selector: Any) -> str:
    return ", ".join(f"{name}: {wanted}" for name, wanted in selector.items())


def _bundles(compute: ComputeConfig, gpus: int) -> list[Bundle]:
    """Return the bundles to request: one per GPU, or one CPU to annotate without GPUs, and one per decoding core."""
    annotate: Bundle = ({"GPU": 1}, compute.annotate_on) if gpus else ({"CPU": 1}, compute.annotate_on)
    cores = 1 if compute.decode_cpus == "auto" else compute.decode_cpus
    return [annotate] * max(1, gpus) + [({"CPU": 1}, compute.decode_on)] * max(_MIN_CPUS, cores)


def _gpu_actor_cpus(annotating: Sequence[Node], decoding: Sequence[Node]) -> float:
    """Return the CPUs per GPU actor: every actor fits on its node, and at least one core stays free for decoding."""
    with_gpus = [node for node in annotating if node.gpus >= 1]
    most = min([_GPU_ACTOR_CPUS, *(node.cpus / int(node.gpus) for node in with_gpus)])
    if shared := count_gpus(node for node in decoding if node in with_gpus):
        most = min(most, (sum(node.cpus for node in decoding) - 1 - WRITE_CPUS) / shared)
    if all(node in with_gpus for node in decoding):
        most = min(most, max((node.cpus - 1) / int(node.gpus) for node in decoding))
    return max(0.0, most)


def _cpu_pool(annotating: Sequence[Node], decoding: Sequence[Node]) -> tuple[int, int, int, float]:
    """Return actors, and calls, threads and CPUs per actor: one actor per 16 cores, which share half of their node."""
    limits = [(node, max(1, int(node.cpus) // _ACTOR_CORES)) for node in annotating if node.cpus >= 1]

    def count(cpus: float) -> int:
        return sum(min(most, int(node.cpus / 2 / cpus + 1e-9)) for node, most in limits)

    cpus = max((node.cpus / 2 / most for node, most in limits), key=lambda cpus: (count(cpus) * cpus, cpus))
    actors, cores = count(cpus), int(2 * cpus)
    # Threads of one call wait for each other and for the decoders: several calls with few threads each are faster.
    calls = max(1, min(_CPU_CALLS, cores))
    if all(node in annotating for node in decoding):
        if actors > 1 and max(node.cpus - most * cpus for node, most in limits) < 1:
            actors -= 1  # to leave one node for decoding
        cpus = min(cpus, (sum(node.cpus for node in decoding) - 1 - WRITE_CPUS) / actors)
    return actors, calls, max(1, cores // calls), cpus


def _rows_per_file(gpu: bool, output: OutputConfig) -> int:
    """Rows per output file. With images fewer: a writer holds them all, and 2048 of COYO's are about 0.1 GB."""
    rows = 8192 if gpu else 1024
    return rows if output.keep_images == "none" else min(rows, 2048)
