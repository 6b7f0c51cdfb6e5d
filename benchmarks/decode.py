"""Images per second and core from encoded bytes to the canvases of both models, and the error of fast canvases.

    python -m benchmarks.decode [--photos DIR] [--images 128] [--rounds 5]

The reference is what a script would do: open with Pillow, convert to RGB, and call each model's image processor.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import checkpoints, corpus
from jobs.config import DecodeConfig
from jobs.images.canvas import Canvas
from jobs.images.decode import decode
from jobs.images.render import render

REFERENCE = "transformers' processors"
VIT, ALIGN = Canvas(squash=(384, 384)), Canvas(squash=(346, 346), crop=(289, 289))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of JPEG files (default: drawn images with COYO's sizes)")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    images = corpus.pictures(args.images, args.photos)
    print(f"{len(images)} JPEG, {np.mean([len(data) for data in images]) / 1000:.0f} kB each on average\n")
    rates = measured(images, args.rounds)
    print(f"{'':26s} {'images/s':>9s}  {'times the processors':>20s}")
    for name, values in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(values, rates[REFERENCE], strict=True)]
        print(f"{name:26s} {statistics.median(values):9.1f}  {statistics.median(ratios):20.2f}")
    fidelity(images)


def measured(images: list[bytes], rounds: int) -> dict[str, list[float]]:
    """Return images per second of CPU time, by method and round."""
    ways: dict[str, Callable[[bytes], Any]] = {
        REFERENCE: processors(),
        "Pillow decode only": lambda data: Image.open(io.BytesIO(data)).convert("RGB").load(),
        "fast decode only": lambda data: decode(data, DecodeConfig(), fast=True),
        "canvas: exact": partial(render, config=DecodeConfig(), canvases=[VIT, ALIGN]),
        "canvas: fast": partial(render, config=DecodeConfig(), canvases=[VIT, ALIGN], fast=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():  # warm-up: imports and caches
        way(images[0])
    for _ in range(rounds):
        for name, way in ways.items():
            since = time.process_time()
            for data in images:
                way(data)
            rates[name].append(len(images) / (time.process_time() - since))
    return rates


def processors() -> Callable[[bytes], Any]:
    """Return a call of ViT's and ALIGN's image processors, configured like kakaobrain's checkpoints."""
    vit, align = checkpoints.vit_processor(), checkpoints.align_processor()

    def both(data: bytes) -> Any:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return vit(image, return_tensors="np"), align(image, return_tensors="np")

    return both


def fidelity(images: list[bytes]) -> None:
    levels: list[np.ndarray[Any, Any]] = []
    for data in images:
        pairs = zip(
            render(data, DecodeConfig(), [VIT, ALIGN]),
            render(data, DecodeConfig(), [VIT, ALIGN], fast=True),
            strict=True,
        )
        levels += [np.abs(a.astype(int) - b).ravel() for a, b in pairs]
    every = np.concatenate(levels)
    shares = ", ".join(f"{level}: {(every == level).mean():.4%}" for level in range(min(4, every.max() + 1)))
    print(f"\nfast against exact, share of values by error in levels of 255: {shares}; at most {every.max()}")


if __name__ == "__main__":
    main()
