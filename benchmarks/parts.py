"""The fastest micro-batch: calls of each model on 32 images and texts, in micro-batches of 4 to 32 images.

    python -m benchmarks.parts [--rounds 3] [--size small] [--threads 1] [--home DIR]

Prints images per second, the median of the rounds. In a whole job calls and decoders share the cores: measure the gain
with benchmarks.throughput, with and without --set compute.batch_size=32.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import HOME, checkpoints
from benchmarks.gpu.batches import block, resident
from jobs.models.annotator import Annotator, ExecutionOptions

_BATCH, _SIZES = 32, (4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=sorted(checkpoints.SIZES), default="small")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--home", type=Path, default=HOME)
    args = parser.parse_args()
    specs = checkpoints.specs(checkpoints.write(args.home / args.size, args.size))
    table = block(specs, _BATCH)
    annotators = {
        size: Annotator(specs, ExecutionOptions("cpu", threads=args.threads, batch_size=size)) for size in _SIZES
    }
    calls = {size: resident(annotator, specs, table, "cpu") for size, annotator in annotators.items()}
    for spec in specs:
        rates: dict[int, list[float]] = {size: [] for size in _SIZES}
        for _ in range(args.rounds):
            for size, values in rates.items():
                values.append(rate(calls[size][spec.kind]))
        medians = ", ".join(f"{statistics.median(values):.1f} in micro-batches of {n}" for n, values in rates.items())
        print(f"{spec.kind}: {medians}", flush=True)


def rate(call: Any) -> float:
    since = time.perf_counter()
    with torch.inference_mode():
        call()
    return _BATCH / (time.perf_counter() - since)


if __name__ == "__main__":
    main()
