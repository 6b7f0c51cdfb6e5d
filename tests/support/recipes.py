"""Recipes of jobs on the demo's checkpoints."""

from pathlib import Path
from typing import Any

from jobs.config import JobConfig
from tests.support.faulty_s3 import FaultyS3


def demo_job(source: str | Path, output: str | Path, **sections: Any) -> JobConfig:
    """A job with the embedded checkpoints; exact canvases, because decoders that need no torch start seconds sooner."""
    tree: dict[str, Any] = {
        "source": {"path": str(source)},
        "compute": {"canvas": "exact"},
        "models": {"vit": {"weights": "demo"}, "align": {"weights": "demo"}},
        "output": {"path": str(output)},
    }
    for name, keys in sections.items():
        tree[name] = {**tree.get(name, {}), **keys}
    return JobConfig.from_dict(tree)


def small_job(source: str | Path, output: str | Path, **sections: Any) -> JobConfig:
    """Small batches and files, so that there are many objects. A decoder that paints exactly starts without torch."""
    tree = demo_job(source, output, compute={"batch_size": 8, "canvas": "exact"}, **sections).model_dump()
    tree["output"]["rows_per_file"] = 8
    return JobConfig.from_dict(tree)


def tiny_job(bucket: str, proxy: FaultyS3, out: str = "out", **limits: object) -> JobConfig:
    """One model, and an object for about each shard."""
    reach = {"endpoint_url": proxy.endpoint, "anonymous": True, "region": "us-east-1"}
    job = demo_job(f"{bucket}/in", f"{bucket}/{out}", storage=reach, limits=limits, compute={"batch_size": 4})
    tree = job.model_dump()
    tree["models"]["align"], tree["output"]["rows_per_file"] = None, 6
    return JobConfig.from_dict(tree)
