"""A run whose GPU actors compute on a CPU, for clusters whose GPUs are only said to be there.

    python -m tests.support.pretend JOB SEEN SECONDS

runs the recipe on the cluster of RAY_ADDRESS, each batch taking SECONDS more until there is a file SEEN/hurry; there is
a file SEEN/STAGE for each kind of node that a stage ran on, as annotate-gpu.
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from jobs import pipeline
from jobs.config import ComputeConfig
from jobs.driver.coordinator import CoordinatorHandle
from jobs.driver.resources import Resources
from jobs.models import Spec
from jobs.pipeline.annotate import AnnotateActor
from jobs.pipeline.decode import Decoder
from jobs.recipe import load_recipe
from jobs.run import run


def here(stage: str) -> None:
    (SEEN / f"{stage}-{os.environ['RAY_NODE_TYPE_NAME']}").touch()


class Actor(AnnotateActor):
    def __init__(
        self, specs: tuple[Spec, ...], compute: ComputeConfig, resources: Resources, coordinator: CoordinatorHandle
    ) -> None:
        here("annotate")
        super().__init__(specs, compute, replace(resources, device="cpu"), coordinator)

    def __call__(self, decoded: pa.Table) -> pa.Table:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and not (SEEN / "hurry").exists():
            time.sleep(0.1)
        return super().__call__(decoded)


class Decode(Decoder):
    def decode(self, raw: pa.Table) -> pa.Table:
        here("decode")
        return super().decode(raw)


if __name__ == "__main__":
    SEEN, SECONDS = Path(sys.argv[2]), float(sys.argv[3])
    vars(pipeline).update(AnnotateActor=Actor, Decoder=Decode)
    print(run(load_recipe(sys.argv[1])))
