"""Kill random processes of a job at random moments until it is done; then verify the output.

    python -m benchmarks.kill_soak OUT [--corpus DIR_OR_S3] [--kills 20] [--seed 0] [--set KEY=VALUE]
    python -m benchmarks.kill_soak --ceph               # starts a real S3 server

Without --corpus it draws one. Each round starts the same command, waits a random time, and kills the driver with its
process tree, one annotate actor, or one process that reads and decodes. It ends with `verify --deep`. With
AWS_ENDPOINT_URL and credentials set, OUT and the corpus may be s3:// paths.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks import ceph, throughput
from jobs.commands.verify import show, verify
from jobs.config import JobConfig
from jobs.demo import corpus
from jobs.recipe import load_recipe
from jobs.storage import Storage

RUN = [sys.executable, "-m", "jobs", "run"]
PARTS = {"actor": "AnnotateActor", "decoder": "Decoder"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", default="s3://soak/out")
    parser.add_argument("--ceph", action="store_true", help="start Ceph's S3 gateway, for corpus and output")
    parser.add_argument("--corpus", default="")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    args = parser.parse_args()
    if args.ceph and (missing := ceph.missing()):
        raise SystemExit(f"skipped: {missing[0]} is not installed; see benchmarks/ceph.py")
    with contextlib.ExitStack() as running:
        if args.ceph:
            running.enter_context(ceph.server("soak"))
        soak(args)


def soak(args: argparse.Namespace) -> None:
    r = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        source = args.corpus or draw(Path(folder))
        if args.ceph:
            source = upload(Path(source), "s3://soak/corpus")
        job = Path(folder) / "job.yaml"
        tree = throughput.job(source, args.out, None).model_dump()
        tree["output"]["rows_per_file"] = 50
        job.write_text(JobConfig.from_dict(tree).to_yaml())
        job.write_text(load_recipe(job, args.set).to_yaml())
        kills: list[str] = []
        while len(kills) < args.kills:
            target = r.choice(["driver", "driver", *PARTS])
            done = run_and_kill(job, target, r.uniform(4.0, 16.0))
            kills.append(target)
            print(f"kill {len(kills):2d}  {target:8s} {committed(args.out):5d} objects committed", flush=True)
            if done and len(kills) < args.kills:  # finished too early: delete half of it and continue
                delete_half(args.out, r)
        subprocess.run([*RUN, str(job)], check=True, stderr=subprocess.DEVNULL)
        checks = verify(args.out, deep=True)
    print(show(checks))
    sys.exit(not all(check.ok for check in checks))


def draw(folder: Path) -> str:
    corpus.write_parquet(folder / "corpus", 24, 100)
    return str(folder / "corpus")


def upload(folder: Path, to: str) -> str:
    for path in folder.iterdir():
        Storage().put(f"{to}/{path.name}", path.read_bytes())
    return to


def run_and_kill(job: Path, target: str, after: float) -> bool:
    """Start the command and kill the target after some seconds. Return whether the run finished nevertheless."""
    process = subprocess.Popen(
        [*RUN, str(job)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        if target == "driver":
            kill_all(process.pid)
        else:
            kill_part(process.pid, PARTS[target])
    try:
        return process.wait(120) == 0
    except subprocess.TimeoutExpired:
        kill_all(process.pid)
        return False


def kill_part(pid: int, name: str) -> None:
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if name in " ".join(child.cmdline()):
                child.send_signal(signal.SIGKILL)
                return
        except psutil.NoSuchProcess:
            continue


def kill_all(pid: int) -> None:
    """Kill the driver first, like a power cut of its machine, and then the Ray processes that it leaves behind."""
    children = psutil.Process(pid).children(recursive=True)
    os.kill(pid, signal.SIGKILL)
    time.sleep(random.uniform(0, 1.0))  # orphans may still write
    for child in children:
        try:
            child.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def committed(out: str) -> int:
    return sum(entry.path.endswith(".parquet") for entry in Storage().find(out))


def delete_half(out: str, r: random.Random) -> None:
    storage = Storage()
    for entry in storage.find(out):
        if entry.path.endswith("_SUCCESS") or (entry.path.endswith(".parquet") and r.random() < 0.5):
            storage.delete(entry.path)


if __name__ == "__main__":
    main()
