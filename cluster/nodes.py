"""The nodes of a Ray cluster: their resources, label selectors, and requests to the autoscaler."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray

Bundle = tuple[Mapping[str, float], Mapping[str, str]]  # resources that one node must have, and its labels


@dataclass(frozen=True)
class Node:
    """A node and its resources, as reported by Ray. A node that rejoins has a new `key`."""

    name: str
    cpus: float
    gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    key: str = ""

    def fits(self, selector: Mapping[str, str]) -> bool:
        """Return whether this node matches a label selector of Ray: value, !value, in(a, b) or !in(a, b) per label."""
        return all(_matches(wanted, self.labels.get(name)) for name, wanted in selector.items())


def _matches(wanted: str, value: str | None) -> bool:
    names = wanted.removeprefix("!")
    allowed = names[3:-1].split(",") if names.startswith("in(") else [names]
    return (value in {name.strip() for name in allowed}) != wanted.startswith("!")


def alive_nodes() -> list[Node]:
    """Return the nodes that are alive now."""
    return [
        Node(
            f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
            node.get("Labels", {}),
            node["Resources"],
            node["NodeID"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


@contextmanager
def requesting_nodes() -> Iterator[Any]:
    """Yield a function that asks the autoscaler, if there is one, for nodes with room for the given bundles.

    The request is withdrawn at the end: otherwise it would keep idle nodes forever.
    """
    from ray.autoscaler.sdk import request_resources

    requested: list[Bundle] = []

    def request(bundles: Sequence[Bundle]) -> None:
        if list(bundles) != requested:
            requested[:] = bundles
            request_resources(
                bundles=[dict(resources) for resources, _ in bundles],
                bundle_label_selectors=[dict(labels) for _, labels in bundles],
            )

    try:
        yield request
    finally:
        if requested:
            request_resources(bundles=[])


def total_resources(nodes: Sequence[Node]) -> dict[str, float]:
    """Return the sum of each resource over the nodes."""
    total: Counter[str] = Counter()
    for node in nodes:
        total.update({name: amount for name, amount in node.resources.items() if not name.startswith("node:")})
    return dict(total)
