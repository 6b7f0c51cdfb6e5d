"""Zero-shot labels: the rate of embedding them, and the cost of the best 5 of a long list relative to the image tower.

    python -m benchmarks.zero_shot [--embed 512] [--labels 1000 20000 50000] [--batch 32] [--size full]

The model has ALIGN's architecture in the given size, with random weights.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import HOME, checkpoints
from benchmarks.corpus import WORDS
from jobs.models import zero_shot
from jobs.models.batching import FixedSize, InferenceOptions
from jobs.models.dual import DualEncoder
from jobs.models.vectors import l2_normalise
from jobs.models.zero_shot import LogitHead, ZeroShotClassifier

TEMPLATE = "This is a photo of {}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embed", type=int, default=512)
    parser.add_argument("--labels", type=int, nargs="+", default=[1000, 20_000, 50_000])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", choices=sorted(checkpoints.SIZES), default="full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, default=HOME)
    args = parser.parse_args()
    folder = checkpoints.write(args.home / args.size, args.size)
    _, spec = checkpoints.specs(folder)
    model = DualEncoder(spec, str(folder / "align"), InferenceOptions(torch.device("cpu"), torch.float32, FixedSize()))
    names = [f"{one} {other}" for one in WORDS for other in WORDS][: args.embed]
    took = median(lambda: zero_shot.embed_labels(names, [TEMPLATE], model._embed_texts), args.rounds)
    print(f"{len(names) / took:,.0f} labels/s embedded, {args.size} tower, {torch.get_num_threads()} threads")
    pixels = torch.randint(0, 256, (args.batch, *spec.canvas.size, 3), dtype=torch.uint8)
    tower = median(lambda: model.forward(pixels, None), args.rounds)
    for count in args.labels:
        labelled = ZeroShotClassifier(
            l2_normalise(torch.randn(count, spec.metadata["dim"])), LogitHead(*spec.options["logit_head"]), 5
        )
        images = l2_normalise(torch.randn(args.batch, spec.metadata["dim"]))
        best = median(partial(labelled, images), args.rounds)
        print(
            f"best 5 of {count:6,}: {best / args.batch * 1e3:.2f} ms per image, {best / tower:.2%} of the image tower"
        )


@torch.inference_mode()
def median(work: Callable[[], Any], rounds: int) -> float:
    """Return the median seconds of a call, after one warm-up call."""
    work()
    times = []
    for _ in range(rounds):
        since = time.perf_counter()
        work()
        times.append(time.perf_counter() - since)
    return statistics.median(times)


if __name__ == "__main__":
    main()
