"""The whole job with Ray on a machine with a GPU: steady rows/s, eager and compiled.

    python -m benchmarks.gpu_job [--rows 40000] [--ways eager compiled] [--most 240] [--out DIR]
    python -m benchmarks.gpu_job --device cpu --size small --rows 400 --shard 100 --pictures 16    # without a GPU

A run is killed after --most seconds; its rate is the slope between its progress lines. DIR keeps its log, its summary
and the output of nvidia-smi dmon. benchmarks.gpu measures the models without Ray.
"""

import argparse
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

try:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks import HOME, checkpoints, corpus, throughput
except ImportError as exc:
    raise SystemExit(
        f"benchmarks.gpu_job: {exc.name} is not installed: pip install -c constraints.txt {exc.name}"
    ) from exc

_PROGRESS = re.compile(r"\s*([\d,]+) of ")


def main() -> None:
    args = arguments()
    if not find_spec("ray"):
        raise SystemExit("benchmarks.gpu_job: ray is not installed: pip install -c constraints.txt 'ray[data]'")
    args.out.mkdir(parents=True, exist_ok=True)
    weights = checkpoints.write(args.home / args.size, args.size)
    source = write(args.home / f"corpus-gpu-{args.rows}", args)
    for way in args.ways:
        lines = run(way, source, weights, args)
        inner = [(second, rows) for second, rows in lines if 0 < rows < args.rows]
        (first, before), (last, after) = (inner[0], inner[-1]) if inner else ((0.0, 0), (0.0, 0))
        slope = (after - before) / (last - first) if last > first else float("nan")
        print(f"{way}: {slope:.0f} rows/s between second {first:.0f} and {last:.0f} of the command", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40000)
    parser.add_argument("--shard", type=int, default=1280)
    parser.add_argument("--pictures", type=int, default=256, help="distinct images; further rows repeat them")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--ways", nargs="+", choices=["eager", "compiled"], default=["eager", "compiled"])
    parser.add_argument("--most", type=float, default=240, help="limit in seconds per run")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=sorted(checkpoints.SIZES), default="full")
    parser.add_argument("--home", type=Path, default=HOME)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "coyo-gpu-results")
    return parser.parse_args()


def write(folder: Path, args: argparse.Namespace) -> Path:
    """Write the corpus of benchmarks.corpus on all cores, as GPU time is expensive. Return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        pictures = pool.map(corpus.picture, range(args.pictures), chunksize=4)
    firsts = range(0, args.rows, args.shard)
    with multiprocessing.get_context("fork").Pool(min(8, os.cpu_count() or 1)) as pool:
        pool.map(partial(shard, folder, args, pictures), firsts, chunksize=1)
    return folder


def shard(folder: Path, args: argparse.Namespace, pictures: list[bytes], first: int) -> None:
    path, ids = folder / f"part-{first:07d}.parquet", range(first, min(args.rows, first + args.shard))
    if not path.exists():
        images = [pictures[i % len(pictures)] for i in ids]
        table = pa.table({"id": list(ids), "text": corpus.texts(len(ids), first), "image": images})
        pq.write_table(table, path, row_group_size=128)


def run(way: str, source: Path, weights: Path, args: argparse.Namespace) -> list[tuple[float, int]]:
    """Run the command. Return (second, rows) of each of its progress lines."""
    output = args.home / f"out-gpu-{way}-{os.getpid()}"
    recipe = output.with_suffix(".yaml")
    recipe.write_text(throughput.job(source, output, weights).to_yaml())
    options = ["source.keep=[]", f"compute.device={args.device}", f"compute.batch_size={args.batch}"]
    options.append(f"compute.compile={'true' if way == 'compiled' else 'false'}")
    words = [word for option in options for word in ("--set", option)]
    lines: list[tuple[float, int]] = []
    with ExitStack() as stack:
        if args.device == "cuda":
            stack.callback(_watched(args.out / f"dmon-{way}.txt").terminate)
        log, since = stack.enter_context((args.out / f"run-{way}.log").open("w")), time.monotonic()
        command = subprocess.Popen(
            [sys.executable, "-u", "-m", "jobs", "run", str(recipe), *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1, start_new_session=True,
        )  # fmt: skip
        stop = threading.Timer(args.most, os.killpg, (command.pid, signal.SIGKILL))
        stop.start()
        assert command.stdout is not None
        for line in command.stdout:
            log.write(f"{time.monotonic() - since:7.1f} {line}")
            if found := _PROGRESS.match(line):
                lines.append((time.monotonic() - since, int(found[1].replace(",", ""))))
        code = command.wait()
        stop.cancel()
    outcome = f"exit {code} after {time.monotonic() - since:.0f} s"
    print(f"{way}: {outcome}{_summary(output / '_summary.json', args.out / f'summary-{way}.json')}", flush=True)
    return lines


def _watched(path: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["nvidia-smi", "dmon", "-s", "pucm", "-d", "1"], stdout=path.open("w"))


def _summary(path: Path, kept: Path) -> str:
    """Return the profile of the annotate stage, or "" if the run was killed."""
    if not path.exists():
        return ""
    summary: dict[str, Any] = json.loads(path.read_text())
    kept.write_text(json.dumps(summary))
    return f"; annotate: {json.dumps(summary['run']['stages']['annotate'])}"


if __name__ == "__main__":
    main()
