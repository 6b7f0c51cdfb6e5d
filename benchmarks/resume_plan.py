"""How long a resume takes to plan: 70,000 shards, 20,000 committed objects.

    python -m benchmarks.resume_plan [--shards 70000] [--objects 20000] [--folder DIR]

Three of seven shards are not committed; with --objects 0 none is, as in a new job. Prints seconds per step, requests
and peak memory, and the seconds of plain fsspec and pyarrow for the same listing and footers.
"""

import argparse
import os
import resource
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import schema
from jobs.config import SourceConfig
from jobs.driver.tasks import plan_tasks
from jobs.output import footer, ledger
from jobs.output.layout import FOLDERS
from jobs.row_ranges import Coverage
from jobs.sources.discover import discover
from jobs.storage import Storage

ROWS = 10_000  # per tar of COYO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=70_000)
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        home = Path(folder)
        make_shards(home / "in", args.shards)
        make_objects(home / "out", args.shards * 4 // 7, args.objects)
        measure(home)


def make_shards(folder: Path, count: int) -> None:
    """Write one tar under many names: copies with 10,000 hard links each, as a file can have at most 65,000."""
    folder.mkdir()
    first = folder / "00000.tar"
    with tarfile.open(first, "w") as tar:
        for name, data in (("0.jpg", b"x"), ("0.json", b'{"url": "u", "width": 1, "height": 1}'), ("0.txt", b"t")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    for index in range(1, count):
        path = folder / f"{index:05d}.tar"
        if index % 10_000 == 0:
            shutil.copy(first, path)
            first = path
        else:
            os.link(first, path)


def make_objects(folder: Path, shards: int, count: int) -> None:
    """Write objects with one row and real footers, each with 1,000 label names."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    names = str([f"label number {i}" for i in range(1000)])
    for index in range(count):
        mine = range(shards * index // count, max(shards * index // count + 1, shards * (index + 1) // count))
        coverage = {f"{shard:05d}.tar": Coverage(((0, ROWS),), ROWS) for shard in mine}
        about = footer.encode_provenance(coverage, run="run", job="job", version="0", reasons="{}")
        table = pa.table({"row": [0]}).replace_schema_metadata({schema.PROVENANCE: about, schema.LABEL_NAMES: names})
        pq.write_table(table, folder / FOLDERS[0] / f"part-run-{index:06d}.parquet")


def measure(home: Path) -> None:
    storage, counting = Storage(), CountingStorage()
    config = SourceConfig(path=str(home / "in"))
    source, listing = timed(lambda: discover(storage, config))
    committed, footers = timed(lambda: ledger.read(counting, str(home / "out")))
    coverage, merging = timed(lambda: committed.coverage)
    work, planning = timed(lambda: plan_tasks(storage, source, coverage, cores=16))
    ours = listing + footers + merging + planning
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    _, bare_listing = timed(lambda: fsspec.filesystem("file").find(str(home / "in"), detail=True))
    _, bare_footers = timed(lambda: bare(home / "out" / "rows"))
    print(f"{work.shards - work.shards_done:,} of {work.shards:,} shards left, {len(committed.objects):,} objects read")
    print(f"list and describe the source   {listing:7.2f} s   bare listing {bare_listing:6.2f} s")
    print(f"read the ledger's footers      {footers:7.2f} s   bare footers {bare_footers:6.2f} s")
    print(f"merge the coverage             {merging:7.2f} s")
    print(f"plan the read tasks            {planning:7.2f} s")
    print(f"total                          {ours:7.2f} s   over bare {ours / (bare_listing + bare_footers):.2f}")
    print(f"ranged reads of footers        {counting.count / max(1, len(committed.objects)):7.2f} per object")
    print(f"peak memory of the process     {memory:7.2f} GB")


class CountingStorage(Storage):
    """Counts ranged reads: each is a request on S3."""

    count = 0

    def read_range(self, *args: Any) -> bytes:
        CountingStorage.count += 1
        return super().read_range(*args)


def bare(folder: Path) -> list[Any]:
    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(lambda path: pq.read_metadata(path).metadata, folder.iterdir()))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return call(), time.perf_counter() - began


if __name__ == "__main__":
    main()
