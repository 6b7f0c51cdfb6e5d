"""What the runs on one cluster have taken of it. Two that take the same may wait for each other for ever: one has the
devices, and the other's readers the cores.

A claim is the name of an actor that a run has anyway: it is there at once for all who look, and ends with its driver,
however that ends.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import ray
from ray.util import list_named_actors

NAMESPACE = "_coyo_jobs_claims"  # nobody else names actors there


def _driver() -> str:
    return str(ray.get_runtime_context().get_job_id())


@dataclass(frozen=True)
class Claim:
    """GPUs, and CPUs of the actors that annotate; `since` is in seconds since 1970."""

    run: str
    gpus: float
    cpus: float
    since: float = field(default_factory=time.time)
    driver: str = field(default_factory=_driver)

    @property
    def place(self) -> tuple[float, str]:
        """In the queue: the lowest was there first."""
        return self.since, self.run

    @property
    def name(self) -> str:
        return json.dumps(asdict(self))


def claims() -> list[Claim]:
    """Of other drivers."""
    named = list_named_actors(all_namespaces=True)
    found = [Claim(**json.loads(each["name"])) for each in named if each["namespace"] == NAMESPACE]
    mine = _driver()
    return sorted((each for each in found if each.driver != mine), key=lambda each: each.place)


def before(claim: Claim, others: Sequence[Claim]) -> list[Claim]:
    """Those that were there first."""
    return [each for each in others if each.place < claim.place]
