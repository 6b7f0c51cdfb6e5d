"""The driver's use of Ray: reserve resources, start and call the coordinator actor, watch nodes, find root causes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import ray
from ray.actor import ActorHandle, ActorMethod
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.claims import NAMESPACE, Claim, earlier
from cluster.local import Session
from jobs.config import ComputeConfig, JobConfig
from jobs.driver.coordinator import Coordinator, CoordinatorHandle, Instruction
from jobs.driver.resources import InsufficientResources, Resources, check_claims, count_gpus, wait_for_resources
from jobs.driver.run_state import BlockId, RunState, ShardDeltas
from jobs.errors import JobError, Stage
from jobs.row_ranges import Range

_SNAPSHOT_SECONDS = 5.0  # timeout

Answer = TypeVar("Answer")


@contextmanager
def start_coordinator(claim: Claim) -> Iterator[CoordinatorHandle]:
    """Start the coordinator actor on the driver's node, and kill it at the end: idle workers still hold handles to it.

    The node affinity is hard. Without it Ray places an actor that requests no CPU on any node; if that node died, the
    run would lose its progress, its limits and its stop signal.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": here, "name": claim.name, "namespace": NAMESPACE}
    actor = ray.remote(Coordinator).options(**options).remote()
    try:
        yield RemoteCoordinator(actor)
    finally:
        ray.kill(actor)


@contextmanager
def reserve_resources(
    run: str, config: JobConfig, session: Session, report: Callable[[str, float], None]
) -> Iterator[tuple[Resources, CoordinatorHandle]]:
    """Wait until the cluster has room for this run beside other runs. Yield its resources and its coordinator.

    While it waits it calls `report` with what is missing and the seconds waited. Raises ClusterError on timeout.
    """
    while True:
        resources = wait_for_resources(config.compute, config.output, session, report)
        claim = Claim(run, *resources.claimed)
        with start_coordinator(claim) as coordinator:
            try:
                check_claims(resources, config.compute, session.nodes(), earlier(claim, session.claims()))
            except InsufficientResources:  # another run claimed the same resources a moment earlier
                continue
            yield resources, coordinator
            return


@dataclass(frozen=True)
class RemoteCoordinator:
    """Calls the Ray actor that holds the Coordinator. If the actor is dead, answers let the stages continue."""

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
        """Return None also when the answer takes longer than 5 seconds: only the shown progress is late then."""
        try:
            return _ask(self.actor.snapshot, taken, default=None, timeout=_SNAPSHOT_SECONDS)
        except GetTimeoutError:
            return None


def _send(method: ActorMethod, *args: object) -> None:
    """Call without waiting and without a return object."""
    method.options(num_returns=0).remote(*args)


def _ask(method: ActorMethod, *args: object, default: Answer, timeout: float | None = None) -> Answer:
    """Return the actor's answer, or `default` if the actor is dead. Raises GetTimeoutError after `timeout` seconds."""
    try:
        answer: Answer = ray.get(method.remote(*args), timeout=timeout)
    except RayActorError:
        return default
    return answer


class NodeWatcher:
    """Detects which nodes join and leave the cluster during a run."""

    def __init__(self, compute: ComputeConfig, resources: Resources, session: Session) -> None:
        self._compute, self._resources, self._session = compute, resources, session
        self._nodes = {node.key: node for node in session.nodes()}

    def poll(self) -> tuple[str, list[str]]:
        """Return what the run waits for ("" unless all its GPUs are lost), and the node changes since the last call."""
        try:
            before, self._nodes = self._nodes, {node.key: node for node in self._session.nodes()}
        except RayError:  # the head is briefly unreachable; if it is lost, the run itself fails
            return "", []
        lost = [f"node {before[key].name} is gone" for key in before.keys() - self._nodes.keys()]
        joined = [f"node {self._nodes[key].name} has joined" for key in self._nodes.keys() - before.keys()]
        annotating = [node for node in self._nodes.values() if node.fits(self._compute.annotate_on)]
        no_gpu = self._resources.device == "cuda" and not count_gpus(annotating)
        return "GPUs: none is left; the models continue when one joins" if no_gpu else "", sorted(lost) + sorted(joined)


def root_cause(exc: RayError) -> JobError:
    """Return the innermost error of the layers that Ray wraps around it, as a JobError."""
    inner: BaseException = exc
    while isinstance(inner, RayTaskError) and isinstance(inner.cause, BaseException):
        inner = inner.cause
    if isinstance(inner, JobError):
        return inner
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    # For an actor that failed to start Ray gives only text: the last line of the traceback is among Ray's advice.
    message = next((line for line in lines if line.startswith("jobs.errors.")), lines[0] if lines else "")
    return JobError(f"the run stopped: {type(inner).__name__}: {message}", "run the same command again to continue")
