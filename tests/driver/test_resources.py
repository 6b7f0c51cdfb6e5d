"""Who gets which nodes."""

from collections.abc import Sequence
from typing import Any

import pytest

from cluster.local import Session
from cluster.nodes import Node
from jobs.config import ComputeConfig, OutputConfig
from jobs.driver import resources
from jobs.driver.remote import NodeWatcher
from jobs.driver.resources import InsufficientResources, Resources, choose_resources
from jobs.errors import ClusterError
from tests.support.nodes import HEAD, OUTPUT, cpu, gpu


def decided(cpus: int, there: int, **compute: Any) -> Resources:
    """On one node with so many cores and GPUs."""
    return across([Node("here", cpus, there)], **compute)


def across(nodes: Sequence[Node], *, grows: bool = False, **compute: Any) -> Resources:
    return choose_resources(ComputeConfig.model_validate(compute), OUTPUT, nodes, grows=grows)


def test_without_gpus_the_models_get_cores_and_small_batches() -> None:
    got = decided(16, 0)
    assert (got.device, got.actors, got.batch_size, got.rows_per_file) == ("cpu", 1, 32, 1024)
    assert (got.actor_cpus, got.calls, got.threads) == (8, 4, 4)
    assert "annotate on 16 CPUs" in str(got)


def test_on_few_cores_each_runs_a_call_of_its_own() -> None:
    """Two threads of one call wait for each other whenever a decoder takes a core: a quarter slower, measured."""
    assert [(got.actors, got.calls, got.threads) for got in map(decided, (2, 3, 4, 8), [0] * 4)] == [
        (1, 2, 1), (1, 3, 1), (1, 4, 1), (1, 4, 2),
    ]  # fmt: skip


def test_many_cores_get_several_actors() -> None:
    """One torch process does not scale over 64 cores."""
    got = decided(64, 0)
    assert got.actors == 4
    assert (got.calls, got.threads) == (4, 4)
    assert "annotate on 64 CPUs" in str(got)


def test_every_gpu_gets_one_actor_and_the_cores_decode() -> None:
    got = decided(64, 8)
    assert (got.device, got.actors, got.batch_size, got.rows_per_file) == ("cuda", 8, 128, 8192)
    assert got.decode_cpus == 59
    assert str(got) == "annotate on 8 GPUs, batches of 128; decode on 59 CPUs"


def test_one_gpu_is_one_gpu() -> None:
    assert str(decided(4, 1)).startswith("annotate on 1 GPU, ")


def test_fewer_gpus_than_there_are_can_be_asked_for() -> None:
    assert decided(64, 8, gpus=3).actors == 3


def test_gpus_are_left_alone_when_the_recipe_says_cpu() -> None:
    assert decided(16, 8, device="cpu").device == "cpu"


def test_cuda_that_is_not_there_is_an_error() -> None:
    """A run on CPU that was meant for GPUs would take a month, quietly."""
    with pytest.raises(ClusterError, match="sees no GPU") as caught:
        decided(16, 0, device="cuda")
    assert "auto" in caught.value.hint


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_more_gpus_than_there_are_is_an_error(device: str) -> None:
    with pytest.raises(ClusterError, match=r"compute\.gpus is 4, but Ray sees 2"):
        decided(16, 2, device=device, gpus=4)


def test_gpus_that_were_asked_for_are_not_replaced_by_cpu() -> None:
    with pytest.raises(ClusterError, match=r"compute\.gpus is 1, but Ray sees 0"):
        decided(16, 0, gpus=1)


def test_decode_cpus_are_clipped_to_what_the_actors_leave() -> None:
    assert decided(16, 1, decode_cpus=4).decode_cpus == 4
    assert decided(16, 1, decode_cpus=500).decode_cpus == decided(16, 1).decode_cpus == 15


def test_what_the_recipe_says_is_taken() -> None:
    got = choose_resources(ComputeConfig(batch_size=7), OutputConfig(path="out", rows_per_file=9), [Node("here", 8)])
    assert (got.batch_size, got.rows_per_file) == (7, 9)


@pytest.mark.parametrize(
    ("cpus", "gpus"),
    [
        (2, 0), (3, 0), (4, 0), (16, 0), (17, 0), (64, 0), (192, 0), (2, 1), (4, 4), (64, 8),
        pytest.param(1, 0), pytest.param(1, 1), pytest.param(4, 8),
    ],
)  # fmt: skip
def test_actors_leave_a_core_for_decode_and_a_sliver_for_writes(cpus: int, gpus: int) -> None:
    """Actors that hold every core leave the stages before and after them waiting for ever, without an error."""
    try:
        got = decided(cpus, gpus)
    except ClusterError:
        return  # said so: fine too
    assert got.decode_cpus >= 1
    assert got.actors * got.actor_cpus + got.decode_cpus + 0.25 <= cpus


@pytest.mark.parametrize(
    "nodes",
    [
        [4, 4, 4, 4], [2, 16, 16], [1, 1], [1, 1, 1, 1], [2, 2], [0, 64, 64], [0, 2], [0, 1, 1, 1], [3, 1], [16, 2],
    ],
)  # fmt: skip
def test_an_actor_is_never_bigger_than_a_node(nodes: list[int]) -> None:
    """Planned from the cluster's sum, four nodes of four cores got one actor of eight, which waited for ever."""
    got = across([cpu(cores) for cores in nodes])
    room = sorted(nodes, reverse=True)
    for _ in range(got.actors):  # Ray spreads them
        room[room.index(max(room))] -= got.actor_cpus  # type: ignore[call-overload]
        assert min(room) >= 0
    assert max(room) >= 1  # where a decoder fits
    assert sum(room) >= got.decode_cpus + resources.WRITE_CPUS


def test_each_node_without_gpus_gets_an_actor_of_its_own_size() -> None:
    got = across([HEAD, cpu(8), cpu(8), cpu(8)])
    assert (got.actors, got.actor_cpus, got.calls, got.threads) == (3, 4, 4, 2)
    assert "annotate on 24 CPUs" in str(got)


@pytest.mark.parametrize(
    "nodes",
    [
        [HEAD, cpu(16), gpu(8, 4)], [HEAD, cpu(1), gpu(1, 1)], [gpu(1, 1), gpu(1, 1)], [gpu(8, 8), gpu(8, 8)],
        [HEAD, cpu(2), gpu(4, 0)],
    ],
)  # fmt: skip
def test_gpu_actors_fit_on_their_nodes_and_leave_a_core_somewhere(nodes: list[Node]) -> None:
    got = across(nodes)
    assert got.actors == sum(node.gpus for node in nodes)
    left = [node.cpus - node.gpus * got.actor_cpus for node in nodes]
    assert min(left) >= 0
    assert max(left) >= 1
    assert sum(left) >= got.decode_cpus + resources.WRITE_CPUS


def test_labels_choose_who_annotates_and_who_decodes() -> None:
    nodes = [HEAD, cpu(16, role="cpu"), gpu(8, 16, card="H100"), gpu(4, 8, card="T4")]
    assert across(nodes).actors == 12
    got = across(nodes, annotate_on={"card": "H100"}, decode_on={"role": "cpu"})
    assert (got.actors, got.actor_cpus, got.decode_cpus) == (8, 0.5, 15)
    assert across(nodes, annotate_on={"card": "!T4"}).actors == 8
    assert across(nodes, annotate_on={"card": "in(T4, A10G)"}).actors == 4
    with pytest.raises(ClusterError, match="Ray sees 4 on nodes with card: T4"):
        across(nodes, gpus=5, annotate_on={"card": "T4"})


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        ({"decode_on": {"role": "cpus"}}, r"no node with role: cpus has a CPU to decode on"),
        ({"device": "cpu", "annotate_on": {"role": "cpus"}}, r"no node with role: cpus has a CPU to annotate on"),
        ({"device": "cuda", "annotate_on": {"role": "cpus"}}, r"sees no GPU on nodes with role: cpus"),
    ],
)
def test_labels_that_no_node_has_are_named(compute: dict[str, Any], said: str) -> None:
    with pytest.raises(InsufficientResources, match=said):
        across([cpu(16, role="cpu"), gpu(8, 16)], **compute)


def test_a_pool_that_grows_begins_with_its_least() -> None:
    with pytest.raises(InsufficientResources, match=r"compute\.gpus\.min is 2, but Ray sees 1"):
        across([cpu(16), gpu()], gpus={"min": 2, "max": 8})
    got = across([cpu(16), gpu(2)], gpus={"min": 2, "max": 8})
    assert (got.first, got.actors) == (2, 8)
    assert str(got).startswith("annotate on 2 to 8 GPUs, ")
    assert [got.with_ready(ready).actors for ready in (0, 3, 20)] == [2, 3, 8]


def test_a_cluster_that_grows_may_be_asked_for_more_cores_than_it_has() -> None:
    assert across([cpu(16), gpu()], decode_cpus=64).decode_cpus == 19
    assert across([cpu(16), gpu()], decode_cpus=64, grows=True).decode_cpus == 64


def test_what_is_missing_is_asked_for_with_its_labels() -> None:
    with pytest.raises(InsufficientResources) as caught:
        across([HEAD], device="cuda", gpus=2, decode_cpus=3, annotate_on={"card": "H100"}, decode_on={"role": "cpu"})
    assert list(caught.value.bundles) == [({"GPU": 1}, {"card": "H100"})] * 2 + [({"CPU": 1}, {"role": "cpu"})] * 3


def rolled(of: Resources, *looks: list[Node]) -> list[tuple[str, list[str]]]:
    """What the watcher says at each poll after the first."""
    coming = iter(looks)
    watcher = NodeWatcher(ComputeConfig(annotate_on={"card": "H100"}), of, Session(False, lambda: next(coming)))
    return [watcher.poll() for _ in looks[1:]]


def test_gpus_that_went_away_are_missed() -> None:
    on_gpus, on_cpus = across([gpu(1, 4)]), across([cpu()])
    h100, t4 = gpu(card="H100"), gpu(card="T4")
    assert [bool(waits) for waits, _ in rolled(on_gpus, [cpu(), h100], [cpu(), t4], [cpu(), h100])] == [True, False]
    assert rolled(on_cpus, [cpu()], [cpu()]) == [("", [])]


def test_nodes_that_come_and_go_are_named() -> None:
    """A node that is cut off and comes back is another one to Ray."""
    one, two, again = (Node(name, 4, key=key) for name, key in (("w1", "a"), ("w2", "b"), ("w1", "c")))
    changes = [said for _, said in rolled(across([cpu()]), [one, two], [two], [two], [two, again], [again])]
    assert changes == [["node w1 is gone"], [], ["node w1 has joined"], ["node w2 is gone"]]
