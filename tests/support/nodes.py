"""Nodes as a cluster reports them."""

from cluster.nodes import Node
from jobs.config import OutputConfig

OUTPUT = OutputConfig(path="out")


HEAD = Node("head", 0)


def cpu(cpus: int = 4, **labels: str) -> Node:
    return Node("cpu", cpus, 0, labels, key="cpu")


def gpu(gpus: int = 1, cpus: int = 4, **labels: str) -> Node:
    return Node("gpu", cpus, gpus, labels, key="gpu")
