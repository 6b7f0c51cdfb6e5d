"""Peak memory of the whole process tree for two numbers of rows: it must not grow with the corpus.

    python -m benchmarks.memory [--rows 10000 100000] [--home DIR] [--size demo]

Memory is the sum of the proportional set sizes: memory shared by processes, mainly the object store, counts once.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks import HOME, checkpoints, corpus
from benchmarks.throughput import job

_EVERY = 1.0  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--home", type=Path, default=HOME)
    parser.add_argument("--size", choices=["demo", *sorted(checkpoints.SIZES)], default="demo")
    args = parser.parse_args()
    weights = None if args.size == "demo" else checkpoints.write(args.home / args.size, args.size)
    peaks = []
    for rows in args.rows:
        source = args.home / f"corpus-{rows}x1000"
        corpus.write(source, rows, 1000)
        recipe = args.home / f"memory-{os.getpid()}-{rows}.yaml"
        recipe.write_text(job(source, recipe.with_suffix(""), weights).to_yaml())
        since = time.perf_counter()
        peak = watched([sys.executable, "-m", "jobs", "run", str(recipe)])
        seconds = time.perf_counter() - since
        peaks.append(peak)
        print(f"{rows:9,} rows  {seconds:7.1f} s  peak {peak / 2**30:5.2f} GiB", flush=True)
    print(f"{peaks[-1] / peaks[0]:.2f} times the memory for {args.rows[-1] / args.rows[0]:.0f} times the rows")


def watched(command: list[str]) -> int:
    """Run a command and return its peak memory in bytes."""
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(proportional, [process, *process.children(recursive=True)])))
        time.sleep(_EVERY)
    if process.returncode:
        raise SystemExit(f"the job failed with exit code {process.returncode}")
    return peak


def proportional(process: psutil.Process) -> int:
    try:
        size: int = process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return size


if __name__ == "__main__":
    main()
