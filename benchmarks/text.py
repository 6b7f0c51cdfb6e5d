"""Text tower: distinct texts in groups of similar length, relative to padding every text to 64 tokens.

    python -m benchmarks.text [--texts 1024] [--batch 32 128 1024] [--size full] [--rounds 3]

Texts have COYO's lengths and share of repeats. The tower is a BERT of the given size with random weights.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import HOME, checkpoints, corpus
from jobs.models.batching import FixedSize, InferenceOptions
from jobs.models.dual import DualEncoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128, 1024])
    parser.add_argument("--size", choices=sorted(checkpoints.SIZES), default="full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, default=HOME)
    args = parser.parse_args()
    folder = checkpoints.write(args.home / args.size, args.size)
    _, spec = checkpoints.specs(folder)
    filled = replace(spec, options={**spec.options, "reading": (64, True)})
    model, plain = (
        DualEncoder(s, str(folder / "align"), InferenceOptions(torch.device("cpu"), torch.float32, FixedSize()))
        for s in (spec, filled)
    )
    texts = corpus.texts(args.texts)
    print(f"{len(texts)} texts, {len(set(texts))} distinct, {args.size} tower, {torch.get_num_threads()} threads")
    ratios: dict[int, list[float]] = {batch: [] for batch in args.batch}
    for _ in range(args.rounds):
        since = time.perf_counter()
        expected = padded(plain, texts)
        took = time.perf_counter() - since
        for batch in args.batch:
            since = time.perf_counter()
            embedded = grouped(model, texts, batch)
            ratios[batch].append(took / (time.perf_counter() - since))
            assert float((expected * embedded).sum(1).min()) > 0.99999
    for batch, ratios_of_batch in ratios.items():
        print(f"batches of {batch:5d}: {statistics.median(ratios_of_batch):.2f} times as fast as padding to 64")


@torch.inference_mode()
def padded(model: Any, texts: list[str]) -> torch.Tensor:
    embedded: torch.Tensor = model._embed_texts(texts)
    return embedded


@torch.inference_mode()
def grouped(model: Any, texts: list[str], batch: int) -> torch.Tensor:
    parts = []
    for start in range(0, len(texts), batch):
        some = model.prepare(texts[start : start + batch])
        parts.append(model._encoded(some.groups)[0][some.chosen])
    return torch.cat(parts)


if __name__ == "__main__":
    main()
