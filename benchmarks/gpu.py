"""What only a GPU can show, from a plain checkout: how fast the models are, how near the actor comes, and what halves.

    python -m benchmarks.gpu [--size full] [--batch 128 256] [--images 4096]
    python -m benchmarks.gpu --device cpu --size small --batch 8 --images 64       # the script itself, anywhere

Needs no Ray and no model hub. Prints one table: images per second of each model's forward pass on tensors that are
already on the device (eager, in the parts that are found fastest, compiled), of the actor with one thread and with two
fed from the host's memory, the numbers' distance
from float32, and whether a batch that does not fit is halved. The whole job, where Ray is installed, is measured by
benchmarks.throughput.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch

from benchmarks import HOME, checkpoints, corpus
from jobs import schema
from jobs.models import Spec
from jobs.models.annotator import Annotator, ExecutionOptions, canvas_tensor

RAW = schema.raw(pa.int64(), [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=sorted(checkpoints.SIZES), default="full")
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--home", type=Path, default=HOME)
    parser.add_argument("--no-compile", action="store_true", help="compiling takes minutes")
    args = parser.parse_args()
    specs = checkpoints.specs(checkpoints.write(args.home / args.size, args.size), "float16")
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}; torch {torch.__version__}; {args.size} models with random weights\n")
    for batch in args.batch:
        forwards(specs, args, batch)
    fidelity(specs, args.device)
    if args.device == "cuda":
        memory(specs)


def forwards(specs: tuple[Spec, ...], args: argparse.Namespace, batch: int) -> None:
    table = block(specs, batch)
    turns = max(2, args.images // batch)
    rates: dict[str, float] = {}
    ways = {"eager": ExecutionOptions(args.device, calls=1, threads=torch.get_num_threads(), batch_size=batch)}
    ways["measured"] = replace(ways["eager"], tune_batch_size=True)
    if not args.no_compile:
        ways["compiled"] = replace(ways["eager"], compile=True)
    for way, how in ways.items():
        annotator = Annotator(specs, how)
        calls = resident(annotator, specs, table, args.device)
        for _ in range(16 if how.tune_batch_size else 0):  # until the fastest parts are known
            in_turn([*calls.values()])
        if way == "eager":
            rates |= {f"{kind}, resident": rate(call, turns, batch, args.device) for kind, call in calls.items()}
        rates[f"both, resident, {way}"] = rate(partial(in_turn, [*calls.values()]), turns, batch, args.device)
        for threads in (1, 2):
            rates[f"actor, {way}, threads {threads}"] = fed(annotator, table, turns, threads, args.device)
        if how.tune_batch_size:
            print(f"batch {batch:4d}  images at once: {annotator.micro_batch_sizes}")
        del annotator, calls
    best = max(value for name, value in rates.items() if name.startswith("both"))
    for name, value in rates.items():
        share = f"{value / best:6.2f} of the best resident pass" if name.startswith("actor") else ""
        print(f"batch {batch:4d}  {name:28s} {value:8.1f} images/s  {share}", flush=True)


def resident(
    annotator: Annotator, specs: tuple[Spec, ...], table: pa.Table, device: str
) -> dict[str, Callable[[], Any]]:
    """A call of each model alone, on pixels that are on the device already."""
    texts = table.column(schema.TEXT).to_pylist()
    return {
        spec.kind: partial(model.forward, canvas_tensor(table, spec.canvas.name).to(device), model.prepare(texts))
        for spec, model in zip(specs, annotator._models, strict=True)
    }


def in_turn(calls: list[Callable[[], Any]]) -> None:
    for call in calls:
        call()


def rate(call: Callable[[], Any], turns: int, batch: int, device: str) -> float:
    for _ in range(2):
        call()
    synchronise(device)
    since = time.perf_counter()
    for _ in range(turns):
        call()
    synchronise(device)
    return turns * batch / (time.perf_counter() - since)


def fed(annotator: Annotator, table: pa.Table, turns: int, threads: int, device: str) -> float:
    """From Arrow tables in the host's memory to Arrow tables with results, as the actor is called by Ray Data."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(annotator, [table] * threads))
        synchronise(device)
        since = time.perf_counter()
        list(pool.map(annotator, [table] * turns))
        seconds = time.perf_counter() - since
    return turns * int(table.num_rows) / seconds


def fidelity(specs: tuple[Spec, ...], device: str) -> None:
    table = block(specs, 32)
    precisions = ("auto", "bfloat16", "float16") if device == "cuda" else ("auto", "bfloat16")
    exact, *others = (annotated(specs, device, precision, table) for precision in ("float32", *precisions))
    for precision, found in zip(precisions, others, strict=True):
        kept = np.mean([a[0] == b[0] for a, b in zip(exact[schema.LABELS], found[schema.LABELS], strict=True)])
        far = {
            name: 1 - min(cosine(a, b) for a, b in zip(exact[name], found[name], strict=True))
            for name in (schema.IMAGE_EMBEDDING, schema.TEXT_EMBEDDING)
        }
        worst = ", ".join(f"{name} {value:.1e}" for name, value in far.items())
        print(f"{precision:9s} top-1 kept {kept:6.1%}; 1 - cosine, worst: {worst}")


def cosine(a: list[float], b: list[float]) -> float:
    """They are stored in float16: of length one up to its rounding."""
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def annotated(specs: tuple[Spec, ...], device: str, precision: str, table: pa.Table) -> dict[str, list[Any]]:
    done = Annotator(specs, ExecutionOptions(device, precision))(table)
    columns: dict[str, list[Any]] = done.sort_by(schema.ROW).select(_COMPARED).to_pydict()
    return columns


_COMPARED = [schema.LABELS, schema.IMAGE_EMBEDDING, schema.TEXT_EMBEDDING]


def memory(specs: tuple[Spec, ...]) -> None:
    """With all but 6 GB of the GPU taken, a batch of 2,048 must come out whole, in parts."""
    annotator = Annotator(specs, ExecutionOptions("cuda", batch_size=2048))
    free, _ = torch.cuda.mem_get_info()
    taken = [torch.empty(1 << 30, dtype=torch.uint8, device="cuda") for _ in range(max(0, (free >> 30) - 6))]
    done = annotator(block(specs, 2048))
    rejects = done.num_rows - done.column(schema.REASON).null_count
    labeller, embedder = (cast(Any, model) for model in annotator._models)
    most = f"{labeller._classify._most} (vit), {embedder._images._most} (align)"
    print(f"out of memory: {done.num_rows} of 2048 rows, {rejects} rejects; at most at once: {most}")
    del taken


def block(specs: tuple[Spec, ...], rows: int) -> pa.Table:
    """Decoded rows: noise, which no decoder's speed can hide behind, and texts of COYO's lengths."""
    table = pa.Table.from_pylist(
        [
            {schema.SHARD: "a", schema.ROW: i, schema.KEY: i, schema.END: False, schema.TEXT: text}
            for i, text in enumerate(corpus.texts(rows))
        ],
        schema.decoded(RAW, []),
    )
    for canvas in {spec.canvas for spec in specs}:
        noise = np.random.default_rng(0).integers(0, 256, (rows, *canvas.size, 3), np.uint8)
        table = table.append_column(canvas.field, pa.FixedShapeTensorArray.from_numpy_ndarray(noise))
    return table


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
