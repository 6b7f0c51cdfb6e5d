"""The run's side of Ray: reserve resources on the cluster, start the coordinator's actor and call it, watch the nodes,
and find the cause of a failure."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import ray
from ray.actor import ActorHandle, ActorMethod
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.claims import NAMESPACE, Claim, before
from cluster.local import Session
from jobs.config import ComputeConfig, JobConfig
from jobs.driver.coordinator import Coordinator, CoordinatorHandle, Instruction
from jobs.driver.resources import NotYet, Resources, check_claims, gpus_of, settle
from jobs.driver.run_state import BlockId, RunState, ShardDeltas
from jobs.errors import JobError, Stage
from jobs.row_ranges import Range

_SNAPSHOT_SECONDS = 5.0

Answer = TypeVar("Answer")


@contextmanager
def coordinating(claim: Claim) -> Iterator[CoordinatorHandle]:
    """Start the coordinator's actor on the driver's node, for as long as a run; idle workers hold handles to it longer.

    The affinity is hard: for an actor that takes no CPU Ray would pick any node, and with that node would go the
    progress, the limits, and the order to stop.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": here, "name": claim.name, "namespace": NAMESPACE}
    actor = ray.remote(Coordinator).options(**options).remote()
    try:
        yield RemoteCoordinator(actor)
    finally:
        ray.kill(actor)


@contextmanager
def reserved(
    run: str, config: JobConfig, session: Session, tell: Callable[[str, float], None]
) -> Iterator[tuple[Resources, CoordinatorHandle]]:
    """Wait until the cluster has what the run takes beside other runs; yield that and the run's coordinator.

    `tell` hears what is missing, and for how many seconds. Raises ClusterError when it does not come.
    """
    while True:
        resources = settle(config.compute, config.output, session, tell)
        claim = Claim(run, *resources.claimed)
        with coordinating(claim) as coordinator:
            try:
                check_claims(resources, config.compute, session.nodes(), before(claim, session.claims()))
            except NotYet:  # one that began at the same moment, and a little earlier
                continue
            yield resources, coordinator
            return


@dataclass(frozen=True)
class RemoteCoordinator:
    """A CoordinatorHandle over the Ray actor that holds the Coordinator. A dead one stops nobody: it says go on."""

    actor: ActorHandle

    def record_work(
        self,
        stage: Stage,
        rows: int,
        seconds: float,
        deltas: ShardDeltas | None = None,
        phases: dict[str, float] | None = None,
        block: BlockId | None = None,
    ) -> None:
        _send(self.actor.record_work, stage, rows, seconds, deltas, phases, block)

    def finish_shard(self, shard: str, size: int, rows: int, done: tuple[Range, ...] = ()) -> None:
        _send(self.actor.finish_shard, shard, size, rows, done)

    def actor_ready(self, device: str) -> None:
        _send(self.actor.actor_ready, device)

    def micro_batch_chosen(self, sizes: dict[str, int]) -> None:
        _send(self.actor.micro_batch_chosen, sizes)

    def set_aside(self, shard: str, why: str) -> None:
        _send(self.actor.set_aside, shard, why)

    def stop(self) -> None:
        _send(self.actor.stop)

    def begin_block(self, block: BlockId) -> Instruction:
        return _ask(self.actor.begin_block, block, default=Instruction.DECODE)

    def is_stopping(self) -> bool:
        return _ask(self.actor.is_stopping, default=False)

    def worst_shards(self) -> dict[str, dict[str, int]]:
        return _ask(self.actor.worst_shards, default={})

    def snapshot(self, taken: int = 0) -> RunState | None:
        """None also when the answer takes longer than 5 seconds: only what is shown suffers."""
        try:
            return _ask(self.actor.snapshot, taken, default=None, timeout=_SNAPSHOT_SECONDS)
        except GetTimeoutError:
            return None


def _send(method: ActorMethod, *args: object) -> None:
    """Call without waiting, and without an object to hold the answer."""
    method.options(num_returns=0).remote(*args)


def _ask(method: ActorMethod, *args: object, default: Answer, timeout: float | None = None) -> Answer:
    """The actor's answer, or the default once the actor is dead."""
    try:
        answer: Answer = ray.get(method.remote(*args), timeout=timeout)
    except RayActorError:
        return default
    return answer


class NodeWatcher:
    """Which nodes a run has, called again and again while it goes on."""

    def __init__(self, compute: ComputeConfig, resources: Resources, session: Session) -> None:
        self._compute, self._resources, self._session = compute, resources, session
        self._nodes = {node.key: node for node in session.nodes()}

    def poll(self) -> tuple[str, list[str]]:
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
