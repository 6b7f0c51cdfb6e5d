"""How long a run waits for nodes that are coming, and for what other runs on its cluster have."""

from collections.abc import Sequence
from typing import Any

import pytest

from cluster.claims import Claim, earlier
from cluster.local import Session
from cluster.nodes import Node
from jobs.config import ComputeConfig
from jobs.driver import resources
from jobs.driver.resources import Resources, wait_for_resources
from jobs.errors import ClusterError
from tests.support.nodes import HEAD, OUTPUT, cpu, gpu


class Growing:
    """A cluster whose nodes come one after the other, a look apart; it remembers what it was asked for."""

    def __init__(self, *nodes: Node, own: bool = False, claims: Sequence[list[Claim]] = ()) -> None:
        self._coming, self._there, self.looks, self._claims = list(nodes), [HEAD], 0, list(claims)
        self.session = Session(own, self._look, lambda: self._claims.pop(0) if self._claims else [])

    def _look(self) -> list[Node]:
        self.looks += 1
        self._there += [self._coming.pop(0)] if self._coming else []
        return self._there


def settled(cluster: Growing, **compute: object) -> tuple[Resources, list[str]]:
    told: list[str] = []
    config = ComputeConfig.model_validate(compute)
    return wait_for_resources(config, OUTPUT, cluster.session, lambda why, _seconds: told.append(why)), told


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the autoscaler was asked for; looks follow each other at once."""
    found: list[Any] = []
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda **given: found.append(given["bundles"]))
    monkeypatch.setattr(resources, "_POLL_SECONDS", 0.0)
    return found


def test_a_run_waits_for_nodes_that_are_still_coming(asked: list[Any]) -> None:
    got, told = settled(Growing(cpu(), gpu(), gpu()), device="cuda", gpus=2)
    assert got.actors == 2
    assert told == ["compute.gpus is 2, but Ray sees 0", "compute.gpus is 2, but Ray sees 1"]
    assert asked == [[{"GPU": 1}] * 2 + [{"CPU": 1}] * 2, []]  # asked once, and taken back


def test_nothing_is_asked_for_when_all_is_there(asked: list[Any]) -> None:
    assert settled(Growing(gpu(2)), gpus=2)[1] == asked == []


def test_patience_ends_and_the_request_with_it(asked: list[Any]) -> None:
    with pytest.raises(ClusterError, match="Ray sees 0") as caught:
        settled(Growing(cpu()), gpus=1, wait_seconds=0.2)
    assert "compute.wait_seconds" in caught.value.hint
    assert asked[-1] == []


def claim(run: str, gpus: float, cpus: float, since: float = 0.0) -> Claim:
    return Claim(run, gpus, cpus, since, "their driver")


def test_a_run_waits_for_what_others_have_taken(asked: list[Any]) -> None:
    """Two that want all GPUs: one has them, and the readers of the other would take the cores away from it."""
    theirs = [[claim("a", 1, 0.5), claim("b", 1, 0.5)], [claim("b", 1, 0.5)], []]
    got, told = settled(Growing(gpu(2), cpu(), claims=theirs), gpus=2)
    assert got.actors == 2
    assert [why.rpartition(": ")[2] for why in told] == ["a, b", "b"]
    assert all(why.startswith("this run needs 2 GPUs, and other runs leave too few") for why in told)
    assert [len([each for each in bundles if "GPU" in each]) for bundles in asked] == [4, 3, 0]


def test_runs_that_were_given_shares_go_on_together(asked: list[Any]) -> None:
    assert settled(Growing(gpu(2), claims=[[claim("a", 1, 0.5)]]), gpus=1)[1] == asked == []


def test_runs_on_cpus_go_on_one_after_the_other(asked: list[Any]) -> None:
    _, told = settled(Growing(cpu(), claims=[[claim("a", 0, 4)]]), device="cpu")
    assert len(told) == 1


def test_of_two_that_begin_at_once_the_later_withdraws() -> None:
    first, second = claim("b", 1, 0, 1.0), claim("a", 1, 0, 2.0)
    assert (earlier(first, [second]), earlier(second, [first])) == ([], [first])


def test_on_a_machine_of_ones_own_nobody_waits(asked: list[Any]) -> None:
    cluster = Growing(cpu(), gpu(), own=True)
    with pytest.raises(ClusterError, match="Ray sees 0"):
        settled(cluster, gpus=1)
    assert (cluster.looks, asked) == (1, [])
