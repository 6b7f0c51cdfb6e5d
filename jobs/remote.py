"""The run's side of Ray: what it may take of a cluster, the meter's actor and how stages reach it, which nodes there
are, what a failure really was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.claims import NAMESPACE, Claim, before
from cluster.local import Session
from jobs.config import ComputeConfig, JobConfig
from jobs.errors import JobError
from jobs.meter import Meter, Snapshot
from jobs.resources import NotYet, Resources, check_claims, gpus_of, settle


@contextmanager
def metering(claim: Claim) -> Iterator[Any]:
    """The meter as an actor beside the driver, for as long as a run; idle workers hold handles to it for longer.

    Not softly: for an actor that takes no CPU Ray would draw a node, any node, and with that one would go the progress,
    the limits, and the word to stop.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": here, "name": claim.name, "namespace": NAMESPACE}
    meter = ray.remote(Meter).options(**options).remote()
    try:
        yield meter
    finally:
        ray.kill(meter)


@contextmanager
def placed(
    run: str, config: JobConfig, session: Session, tell: Callable[[str, float], None]
) -> Iterator[tuple[Resources, Any]]:
    """(what to run on, the run's meter), once no other run on the cluster has it. Raises ClusterError."""
    while True:
        resources = settle(config.compute, config.output, session, tell)
        claim = Claim(run, *resources.claimed)
        with metering(claim) as meter:
            try:
                check_claims(resources, config.compute, session.nodes(), before(claim, session.claims()))
            except NotYet:  # one that began at the same moment, and a little earlier
                continue
            yield resources, meter
            return


def look(meter: Any, taken: int = 0) -> Snapshot | None:
    """The counts so far, or None when they cannot be had right now: only what is shown suffers. `taken` is how many
    shards that are done were seen before."""
    try:
        seen: Snapshot = ray.get(meter.snapshot.remote(taken), timeout=5)
    except (RayActorError, GetTimeoutError):
        return None
    return seen


@dataclass(frozen=True)
class Send:
    """Reaches the meter without waiting for it."""

    meter: Any

    def __call__(self, method: str, *args: Any) -> None:
        getattr(self.meter, method).options(num_returns=0).remote(*args)


@dataclass(frozen=True)
class Ask:
    """Asks the meter, and waits for the answer; a meter that died stops nobody."""

    meter: Any

    def __call__(self, method: str, *args: Any) -> Any:
        try:
            return ray.get(getattr(self.meter, method).remote(*args))
        except RayActorError:
            return False


class Roll:
    """Which nodes a run has, called again and again while it goes on."""

    def __init__(self, compute: ComputeConfig, resources: Resources, session: Session) -> None:
        self._compute, self._resources, self._session = compute, resources, session
        self._nodes = {node.key: node for node in session.nodes()}

    def call(self) -> tuple[str, list[str]]:
        """(what the run waits for, when the cluster has lost all that annotates; who has come and gone since)."""
        try:
            before, self._nodes = self._nodes, {node.key: node for node in self._session.nodes()}
        except RayError:  # the head is away for a moment, or the run is about to hear that it is gone
            return "", []
        gone = [f"node {before[key].name} is gone" for key in before.keys() - self._nodes.keys()]
        come = [f"node {self._nodes[key].name} has come" for key in self._nodes.keys() - before.keys()]
        annotating = [node for node in self._nodes.values() if node.fits(self._compute.annotate_on)]
        lost = self._resources.device == "cuda" and not gpus_of(annotating)
        return "GPUs: none is left; the models go on as soon as one comes" if lost else "", sorted(gone) + sorted(come)


def cause(exc: RayError) -> JobError:
    """The one error that matters, out of the layers Ray puts around it."""
    inner: BaseException = exc
    while isinstance(inner, RayTaskError) and isinstance(inner.cause, BaseException):
        inner = inner.cause
    if isinstance(inner, JobError):
        return inner
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    # An actor that could not start is told as text only, with the traceback's last line among Ray's advice.
    told = next((line for line in lines if line.startswith("jobs.errors.")), lines[0] if lines else "")
    hint = "run the same command again to go on where it was"
    return JobError(f"the run stopped: {type(inner).__name__}: {told}", hint)
