"""The effect of fast instead of exact canvases on the results of the models.

    python -m benchmarks.fidelity [--photos DIR] [--images 64] [--weights DIR]      # DIR holds vit/ and align/

Without --weights it uses the demo's checkpoints, without --photos drawn images with COYO's sizes.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from benchmarks import checkpoints, corpus
from jobs import schema
from jobs.config import DecodeConfig
from jobs.images.render import paint_rows, render
from jobs.models import Spec
from jobs.models.annotator import Annotator, ExecutionOptions

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--weights", type=Path)
    args = parser.parse_args()
    images = corpus.pictures(args.images, args.photos)
    specs = checkpoints.specs(args.weights)
    annotator = Annotator(specs, ExecutionOptions("cpu", "float32", threads=torch.get_num_threads()))
    exact, fast = (annotated(annotator, specs, images, fast=fast) for fast in (False, True))
    a, b = (np.array(results[schema.IMAGE_EMBEDDING], np.float64) for results in (exact, fast))
    far = 1 - (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    tops = list(zip(exact[schema.LABELS], fast[schema.LABELS], strict=True))
    first, five = np.mean([x[0] == y[0] for x, y in tops]), np.mean([len({*x} & {*y}) / len(x) for x, y in tops])
    print(f"{len(far)} images, canvases " + ", ".join(f"{spec.kind} {spec.canvas.size[0]}" for spec in specs))
    print(f"1 - cosine of image embeddings: mean {far.mean():.1e}, max {far.max():.1e}")
    print(f"top 1 kept {first:.1%}, top 5 shared {five:.1%}")


def annotated(
    annotator: Annotator, specs: tuple[Spec, ...], images: list[bytes], *, fast: bool
) -> dict[str, list[Any]]:
    rows = [{schema.SHARD: "a", schema.ROW: i, schema.END: False, schema.IMAGE: data} for i, data in enumerate(images)]
    raw = pa.Table.from_pylist(rows, schema.raw(pa.int64(), []))
    canvases = list(dict.fromkeys(spec.canvas for spec in specs))
    by = partial(render, config=DecodeConfig(), canvases=canvases, fast=fast)
    parts = [raw.slice(start, BATCH) for start in range(0, raw.num_rows, BATCH)]
    table = pa.concat_tables([annotator(paint_rows(part, DecodeConfig(), canvases, by)) for part in parts])
    labelled = table.filter(pc.is_valid(table.column(schema.LABELS))).sort_by(schema.ROW)
    columns: dict[str, list[Any]] = labelled.select([schema.LABELS, schema.IMAGE_EMBEDDING]).to_pydict()
    return columns


if __name__ == "__main__":
    main()
