"""Read an output, and check that it is whole."""

from collections.abc import Iterable
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.commands.verify import show, verify
from jobs.output.layout import FOLDERS
from jobs.storage import Storage


def read(out: str, folder: str) -> pa.Table:
    entries = [entry for entry in Storage().find(f"{out}/{folder}") if entry.path.endswith(".parquet")]
    return pa.concat_tables([pq.read_table(Storage().open(entry)) for entry in entries])


def addresses(*tables: pa.Table) -> list[tuple[str, int]]:
    found = (row for table in tables for row in table.select(["shard", "row"]).to_pylist())
    return sorted((row["shard"], row["row"]) for row in found)


def objects(out: str) -> dict[str, Any]:
    """Name and time of everything in the output."""
    fs, path = fsspec.core.url_to_fs(out)
    fs.invalidate_cache()
    return {name: info.get("mtime", info.get("LastModified")) for name, info in fs.find(path, detail=True).items()}


def check_whole(output: str, given: Iterable[tuple[str, int]]) -> None:
    """Each given row is in the output once, and `verify` finds nothing wrong."""
    assert addresses(*(read(output, folder) for folder in FOLDERS)) == sorted(given)
    checks = verify(output, deep=True)
    assert all(check.ok for check in checks), show(checks)


def rows_of(shards: int, count: int) -> list[tuple[str, int]]:
    """The addresses of every row that `corpus.write_parquet` draws."""
    return [(f"part-{shard:05d}.parquet", row) for shard in range(shards) for row in range(count)]
