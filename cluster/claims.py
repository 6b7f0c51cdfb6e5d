"""Claims: what each run on a cluster has reserved. Without them two runs could deadlock, one holding the GPUs and the
other the cores.

A claim is stored in the name of the run's coordinator actor. Other runs see it at once, and Ray removes it with the
driver, even after a crash.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import ray
from ray.util import list_named_actors

NAMESPACE = "_coyo_jobs_claims"  # of the actors whose names are claims


def _driver_id() -> str:
    return str(ray.get_runtime_context().get_job_id())


@dataclass(frozen=True)
class Claim:
    """GPUs and CPUs that the annotate actors of a run take. `since` is in seconds since 1970."""

    run: str
    gpus: float
    cpus: float
    since: float = field(default_factory=time.time)
    driver: str = field(default_factory=_driver_id)

    @property
    def order(self) -> tuple[float, str]:
        """Sort key: the earliest claim has the lowest."""
        return self.since, self.run

    @property
    def name(self) -> str:
        """The claim as the name of an actor."""
        return json.dumps(asdict(self))


def list_claims() -> list[Claim]:
    """Return the claims of other drivers, earliest first."""
    actors = list_named_actors(all_namespaces=True)
    found = [Claim(**json.loads(actor["name"])) for actor in actors if actor["namespace"] == NAMESPACE]
    mine = _driver_id()
    return sorted((claim for claim in found if claim.driver != mine), key=lambda claim: claim.order)


def earlier(claim: Claim, others: Sequence[Claim]) -> list[Claim]:
    """Return those of `others` that are earlier than `claim`."""
    return [other for other in others if other.order < claim.order]
