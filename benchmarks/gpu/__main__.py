"""Measure a GPU from a plain checkout: its limits, where its time goes, and how close the actor comes to the models.

    python -m benchmarks.gpu [--out DIR] [--budget 450] [--photos DIR] [--only towers,vit]
    python -m benchmarks.gpu --device cpu --size small --batch 8 --turns 2     # tries the script without a GPU

Needs neither Ray nor a model hub. Each section prints its results and appends one line of JSON to DIR/results.jsonl, so
a run that is stopped keeps the results so far. Sections that exceed the budget of seconds are skipped, with a message.
benchmarks.gpu_job measures the whole job, with Ray.
"""

import argparse
import importlib
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import HOME

# Most important sections first; seconds on an H200 with 16 cores.
SECTIONS = {
    "ceilings": 15, "towers": 25, "actor": 70, "vit": 60, "text": 15, "compiled": 130, "fidelity": 50,
    "memory_grows": 20, "memory_short": 25, "align": 60, "decoding": 35,
}  # fmt: skip
_MODULES = {"text": "towers", "memory_grows": "memory", "memory_short": "memory"}


def main() -> None:
    args = arguments()
    try:
        from benchmarks.gpu.bench import Bench
    except ImportError as exc:
        raise SystemExit(
            f"benchmarks.gpu: {exc.name} is not installed: pip install -c constraints.txt {exc.name}"
        ) from exc
    bench = Bench(args)
    for name in filter(set(args.only.split(",") if args.only else SECTIONS).__contains__, SECTIONS):
        left = args.budget - (time.monotonic() - bench.began)
        if left < SECTIONS[name] and bench.cuda:
            print(f"[{name}] skipped: {left:.0f} s remain, it takes about {SECTIONS[name]} s", flush=True)
            continue
        run: Any = getattr(importlib.import_module(f"benchmarks.gpu.{_MODULES.get(name, name)}"), name)
        bench.section(name, run)
    print(f"done after {time.monotonic() - bench.began:.0f} s: {bench.out}/results.jsonl")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=["full", "small"], default="full")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=24, help="batches per measurement of the actor")
    parser.add_argument("--budget", type=float, default=450, help="seconds in all")
    parser.add_argument("--home", type=Path, default=HOME)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "coyo-gpu-results")
    parser.add_argument("--photos", type=Path, help="for fidelity and decoding (default: drawn images)")
    parser.add_argument("--only", default="", metavar=",".join(SECTIONS))
    return parser.parse_args()


if __name__ == "__main__":
    main()
