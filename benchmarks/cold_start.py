"""The whole command on one shard of 100 rows, relative to `ray.init()` plus loading the same checkpoints.

    python -m benchmarks.cold_start [--rounds 3]

"First" runs without a cache; "again" runs when the cache has the descriptions of these checkpoints.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.throughput import job
from jobs.demo import corpus

_BASELINE = """
import ray
ray.init("local", include_dashboard=False, log_to_driver=False)
from jobs.demo import WEIGHTS
from jobs.models import loading
loading.load_model(loading.transformers().AutoModelForImageClassification, str(WEIGHTS / "vit"), "demo")
loading.load_model(loading.transformers().AlignModel, str(WEIGHTS / "align"), "demo")
ray.shutdown()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    ratios: dict[str, list[float]] = {"first": [], "again": []}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        corpus.write_parquet(home / "in", 1, 100)
        for turn in range(args.rounds):
            baseline = seconds([sys.executable, "-c", _BASELINE])
            print(f"Ray and checkpoints only {baseline:5.1f} s", end="")
            for name, values in ratios.items():
                (home / "job.yaml").write_text(job(home / "in", home / f"{name}{turn}", None).to_yaml())
                ours = seconds([sys.executable, "-m", "jobs", "run", str(home / "job.yaml")], str(home / f"home{turn}"))
                values.append(ours / baseline)
                print(f", the command {name} {ours:5.1f} s", end="", flush=True)
            print()
    for name, values in ratios.items():
        print(f"{name}: {statistics.median(values):.2f} times")


def seconds(command: list[str], home: str = "") -> float:
    since = time.perf_counter()
    env = {**os.environ, "HOME": home} if home else None
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    return time.perf_counter() - since


if __name__ == "__main__":
    main()
