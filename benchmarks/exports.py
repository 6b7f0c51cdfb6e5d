"""Rows per second and peak memory of exports and joins, for two numbers of rows.

    python -m benchmarks.exports [--rows 65536 655360] [--home DIR]

The outputs are like those of a run with align-base and five labels: random embeddings of 640 numbers, in objects of
8,192 rows. The metadata has their ids in another order. Memory excludes pages of mapped files: the operating system can
drop those.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import HOME
from jobs import schema
from jobs.config import JobConfig
from jobs.images.canvas import Canvas, Scale
from jobs.models import Spec
from jobs.models.weights import Weights
from jobs.output import identity
from jobs.output.layout import SUCCESS
from jobs.output.writer import Writer
from jobs.storage import Storage

DIM, OBJECT = 640, 8192
FIELDS = (
    *schema.labels(),
    schema.embedding(schema.IMAGE_EMBEDDING, DIM, pa.float16()),
    schema.embedding(schema.TEXT_EMBEDDING, DIM, pa.float16()),
    schema.similarity(),
)
KEPT = [("url", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("image_phash", pa.string())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[65_536, 655_360])
    parser.add_argument("--home", type=Path, default=HOME)
    args = parser.parse_args()
    for rows in args.rows:
        home = args.home / f"exports-{rows}"
        shutil.rmtree(home, ignore_errors=True)
        write(home, rows)
        out, to, coyo = (str(home / name) for name in ("out", "to", "coyo"))
        commands = [["export", form, out, to] for form in ("hf", "clip-retrieval", "coyo-labeled")]
        commands += [["join", out, coyo, to], ["join", out, coyo, to, "--columns", "labels,label_probs,similarity"]]
        for command in commands:
            seconds, peak = measured(command)
            shutil.rmtree(to)
            name = " ".join(word for word in command if not word.startswith(str(home)))
            print(f"{rows:9,} rows  {seconds:6.1f} s  {rows / seconds:9,.0f} rows/s  {peak / 2**20:6,.0f} MiB  {name}")
        shutil.rmtree(home)


def measured(command: list[str]) -> tuple[float, int]:
    """Run a command. Return seconds and the peak memory of its process in bytes."""
    since, peak = time.perf_counter(), 0
    process = psutil.Popen([sys.executable, "-m", "jobs", *command], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            memory = process.memory_info()
        except psutil.NoSuchProcess:
            break
        peak = max(peak, memory.rss - memory.shared)
        time.sleep(0.05)
    if process.wait():
        raise SystemExit(f"{command} failed with exit code {process.returncode}")
    return time.perf_counter() - since, peak


def write(home: Path, count: int) -> None:
    """Write a finished output to home/out, and shuffled metadata of its rows and as many others to home/coyo."""
    path, storage = str(home / "out"), Storage()
    tree = {"source": {"path": str(home / "in"), "keep": [n for n, _ in KEPT]}, "output": {"path": path}}
    config = JobConfig.from_dict(tree)
    about = {"weights": "random", "revision": "none"}
    scale = Scale((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    spec = Spec("vit", Weights("random", "none", storage), Canvas((8, 8)), scale, FIELDS, (), about, {})
    columns = schema.annotated(schema.raw(pa.int64(), map(pa.field, *zip(*KEPT, strict=True))), FIELDS)
    writer = Writer(storage, path, columns, (spec,), {"run": "r1", "job": identity.fingerprint(config), "version": "0"})
    identity.claim_output(storage, config)
    dice = np.random.default_rng(0)
    for start in range(0, count, OBJECT):
        rows = np.arange(start, min(start + OBJECT, count))
        writer.write(_batch(rows, columns, dice), f"part-r1-{start // OBJECT:06d}.parquet")
    storage.put(f"{path}/{SUCCESS}", b"")
    for number, rows in enumerate(np.array_split(dice.permutation(2 * count), 4)):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"id": _ids(rows), "text": [f"a text of row {row}" for row in rows]}), sink)
        storage.put(str(home / "coyo" / f"part-{number:05d}.parquet"), memoryview(sink.getvalue()))


def _batch(
    rows: "np.ndarray[tuple[int], np.dtype[np.int64]]", columns: pa.Schema, dice: np.random.Generator
) -> pa.Table:
    n = len(rows)
    ends = pa.array(np.arange(0, 5 * n + 1, 5), pa.int32())
    columns_by_name = {
        "shard": pa.repeat("part-00000.parquet", n),
        "row": pa.array(rows, pa.int32()),
        "_since": pa.array(rows, pa.int32()),
        "key": _ids(rows),
        "url": pa.array([f"https://images.example.org/path/of/a/site/2021/03/picture-{row:09d}.jpg" for row in rows]),
        "width": pa.repeat(622, n).cast(pa.int32()),
        "height": pa.repeat(541, n).cast(pa.int32()),
        "image_phash": pa.array([f"{row:016x}" for row in rows]),
        "_end": pa.repeat(False, n),
        "labels": pa.ListArray.from_arrays(ends, pa.array(dice.integers(0, 1000, 5 * n), pa.int32())),
        "label_probs": pa.ListArray.from_arrays(ends, pa.array(dice.random(5 * n), pa.float32())),
        "image_embedding": _vectors(n, dice),
        "text_embedding": _vectors(n, dice),
        "similarity": pa.array(dice.random(n), pa.float32()),
    }
    arrays = [columns_by_name.get(field.name, pa.nulls(n, field.type)) for field in columns]
    return pa.Table.from_arrays(arrays, schema=columns)


def _ids(rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> pa.Array:
    return pa.array(rows * 8191 + 12_345_678_901)


def _vectors(n: int, dice: np.random.Generator) -> pa.Array:
    values = dice.standard_normal((n, DIM), dtype=np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float16).ravel()), DIM)


if __name__ == "__main__":
    main()
