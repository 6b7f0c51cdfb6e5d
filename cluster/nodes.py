"""The nodes of a Ray cluster: what each has, which of them are meant, and how to ask for more."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray

Bundle = tuple[Mapping[str, float], Mapping[str, str]]  # resources that one node must have, and its labels


@dataclass(frozen=True)
class Node:
    """What Ray says one machine of the cluster has; one that comes back has another key."""

    name: str
    cpus: float
    gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    key: str = ""

    def fits(self, selector: Mapping[str, str]) -> bool:
        """Whether Ray would put something with this label selector here: value, !value, in(a, b), !in(a, b)."""
        return all(_holds(wanted, self.labels.get(name)) for name, wanted in selector.items())


def _holds(wanted: str, value: str | None) -> bool:
    names = wanted.removeprefix("!")
    allowed = names[3:-1].split(",") if names.startswith("in(") else [names]
    return (value in {name.strip() for name in allowed}) != wanted.startswith("!")


def alive() -> list[Node]:
    """Those that Ray has now."""
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
def asking() -> Iterator[Any]:
    """What is yielded asks the autoscaler, where there is one, for room for bundles; until the end, when the request,
    which would hold idle nodes for ever, is taken back."""
    from ray.autoscaler.sdk import request_resources

    asked: list[Bundle] = []

    def ask(bundles: Sequence[Bundle]) -> None:
        if list(bundles) != asked:
            asked[:] = bundles
            request_resources(
                bundles=[dict(resources) for resources, _ in bundles],
                bundle_label_selectors=[dict(labels) for _, labels in bundles],
            )

    try:
        yield ask
    finally:
        if asked:
            request_resources(bundles=[])


def totals(nodes: Sequence[Node]) -> dict[str, float]:
    """What they have together, by resource."""
    found: Counter[str] = Counter()
    for node in nodes:
        found.update({name: amount for name, amount in node.resources.items() if not name.startswith("node:")})
    return dict(found)
