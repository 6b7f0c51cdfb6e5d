"""Rows per second of the whole job relative to a bare loop: the same work in one process per core, without Ray.

    python -m benchmarks.throughput [--rows 5000] [--rounds 1] [--home DIR] [--size small] [--set KEY=VALUE]

The bare loop reads, decodes, paints, runs both models and writes Parquet with the same functions, but without job,
ledger or resume. Its clock starts when its models are loaded. The job's clock starts with the command ("command") or
with its first batch ("steady").
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks import HOME, checkpoints, corpus
from jobs.config import JobConfig
from jobs.recipe import recipe_template


def main() -> None:
    parser = arguments(__doc__, rows=5000)
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    source = args.home / f"corpus-{args.rows}x{args.per_shard}"
    corpus.write(source, args.rows, args.per_shard)
    weights = checkpoints.write(args.home / args.size, args.size)
    config = job(source, args.home / "out", weights)
    cores = os.cpu_count() or 1
    print(f"{args.rows:,} rows, {cores} cores, {args.size} models")
    measurements: list[dict[str, float]] = []
    for turn in range(args.rounds):
        rates = {"bare loop": bare(config, args.rows, cores)}
        out = args.home / f"out-{os.getpid()}-{turn}"
        rates |= ours(source, out, weights, args.set)
        measurements.append(rates)
        print(json.dumps({name: round(rate, 1) for name, rate in rates.items()}), flush=True)
    for name in ("steady", "command"):
        ratio = statistics.median(rates[name] / rates["bare loop"] for rates in measurements)
        print(f"{name:8s} {ratio:5.2f} of the bare loop")


def arguments(doc: str | None, rows: int) -> argparse.ArgumentParser:
    """Return the parser of a benchmark that runs a whole corpus."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=rows)
    parser.add_argument("--per-shard", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--home", type=Path, default=HOME)
    parser.add_argument("--size", choices=sorted(checkpoints.SIZES), default="small")
    return parser


def job(source: Path | str, output: Path | str, weights: Path | None) -> JobConfig:
    """Return a job with the checkpoints below a folder, or the demo's."""
    tree = yaml.safe_load(recipe_template(str(source), str(output)))
    for kind in ("vit", "align"):
        tree["models"][kind]["weights"] = str(weights / kind) if weights else "demo"
    return JobConfig.from_dict(tree)


def ours(source: Path, output: Path, weights: Path, options: list[str]) -> dict[str, float]:
    """Return rows/s of the whole command, and after its models were loaded."""
    config = job(source, output, weights)
    path = output.with_suffix(".yaml")
    path.write_text(config.to_yaml())
    since = time.perf_counter()
    options = [word for option in options for word in ("--set", option)]
    subprocess.run([sys.executable, "-m", "jobs", "run", str(path), *options], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - since
    run = json.loads((output / "_summary.json").read_text())["run"]
    return {"steady": run["stages"]["annotate"]["rows_per_second"], "command": run["rows"] / seconds}


def bare(config: JobConfig, rows: int, cores: int) -> float:
    """Return rows/s of the bare loop."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(cores + 1)
    workers = [context.Process(target=loop, args=(config, ready, i, cores)) for i in range(cores)]
    for worker in workers:
        worker.start()
    ready.wait(120)
    since = time.perf_counter()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("the bare loop failed")
    return rows / (time.perf_counter() - since)


def loop(config: JobConfig, ready: Any, index: int, count: int) -> None:
    from jobs.images.render import paint_rows, render
    from jobs.models.annotator import Annotator, ExecutionOptions
    from jobs.models.describe import describe_models
    from jobs.sources import ReadUnit
    from jobs.sources.discover import discover, read
    from jobs.storage import Storage

    storage = Storage()
    source = discover(storage, config.source)
    specs = describe_models(config, storage)
    annotator = Annotator(specs, ExecutionOptions("cpu", tune_batch_size=config.compute.batch_size == "auto"))
    canvases = list(dict.fromkeys(spec.canvas for spec in specs))
    decode_image = partial(render, config=config.decode, canvases=canvases, fast=config.compute.canvas == "fast")
    ready.wait()
    for shard in source.shards[index::count]:
        tables = []
        for raw in read(storage, source.layout, ReadUnit(shard)):
            for start in range(0, raw.num_rows, 32):
                decoded = paint_rows(raw.slice(start, 32), config.decode, canvases, decode_image)
                tables.append(annotator(decoded))
        path = Path(config.output.path) / "bare" / f"{shard.name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables(tables), path, compression="zstd")


if __name__ == "__main__":
    main()
