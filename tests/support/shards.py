"""Write shards, and read them as a source does, without Ray."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import schema
from jobs.config import JobConfig
from jobs.errors import SourceError
from jobs.row_ranges import Coverage, Range
from jobs.sources import ReadUnit, Source
from jobs.sources.discover import discover, read
from jobs.storage import Storage


@dataclass(frozen=True)
class Raw:
    """Everything one shard's reader yielded."""

    tables: list[pa.Table]

    @property
    def table(self) -> pa.Table:
        return pa.concat_tables(self.tables)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for row in self.table.to_pylist() if not row["_end"]]

    @property
    def ends(self) -> list[dict[str, Any]]:
        return [row for row in self.table.to_pylist() if row["_end"]]

    @property
    def numbers(self) -> list[int]:
        return [row["row"] for row in self.rows]

    @property
    def rejects(self) -> dict[int, str]:
        return {row["row"]: row["_reason"] for row in self.rows if row["_reason"]}

    @property
    def total(self) -> int:
        (end,) = self.ends
        return int(end["row"])

    @property
    def damage(self) -> str:
        (end,) = self.ends
        return str(end["_message"] or "")

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]


def listed(path: Any, **keys: Any) -> Source:
    """A source, as a recipe names it; nothing is kept unless the test says so."""
    where = [str(one) for one in path] if isinstance(path, list) else str(path)
    tree = {"source": {"path": where, "keep": [], **keys}, "output": {"path": "out"}}
    return discover(Storage(), JobConfig.from_dict(tree).source)


def read_all(path: Any, done: tuple[Range, ...] = (), **keys: Any) -> dict[str, Raw]:
    """Every shard of a source, by name."""
    source = listed(path, **keys)
    return {s.name: Raw(list(read(Storage(), source.layout, ReadUnit(s, None, done)))) for s in source.shards}


def read_one(path: Any, done: tuple[Range, ...] = (), **keys: Any) -> Raw:
    (raw,) = read_all(path, done, **keys).values()
    return raw


def refusal(path: Any, **keys: Any) -> str:
    """What the user is told, where a source must be refused."""
    try:
        listed(path, **keys)
    except SourceError as exc:
        return str(exc)
    raise AssertionError("the source was taken")


def tar_bytes(members: Iterable[tuple[str, bytes]], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.type, member.size = (tarfile.DIRTYPE, 0) if name.endswith("/") else (tarfile.REGTYPE, len(data))
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    path.write_bytes(tar_bytes(members, mode))
    return path


def write_parquet(path: Path, columns: Mapping[str, Any], group: int = 1000, compression: str = "snappy") -> Path:
    """Without dictionaries, so that each column of a row group is one run of page bytes."""
    pq.write_table(pa.table(dict(columns)), path, row_group_size=group, compression=compression, use_dictionary=False)
    return path


def overwrite(path: Path, column: str, skip: int, data: Callable[[int], bytes]) -> None:
    """Bytes of the middle row group's column, from `skip` bytes behind its first page header's start."""
    group = pq.read_metadata(path).row_group(1)
    (chunk,) = [c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column]
    stored = bytearray(path.read_bytes())
    start, stop = chunk.data_page_offset + skip, chunk.data_page_offset + chunk.total_compressed_size
    new = data(stop - start)
    stored[start : start + len(new)] = new
    path.write_bytes(stored)


def about(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def of_jsons(folder: Path, *jsons: bytes, **keys: Any) -> Raw:
    """A tar of images with these .json members."""
    members = [member for n, data in enumerate(jsons) for member in ((f"{n}.jpg", b"x"), (f"{n}.json", data))]
    return read_one(write_tar(folder / "0.tar", members), **keys)


def put_folder(folder: Path, to: str) -> None:
    """Copy local files below a folder to s3://."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            Storage().put(f"{to}/{path.relative_to(folder)}", path.read_bytes())


def accounted(tables: list[pa.Table]) -> Coverage:
    """What the sink would write into a footer for these raw rows."""
    table = pa.concat_tables(tables)
    total = Coverage()
    for row in table.to_pylist():
        since, stop = row[schema.SINCE], row[schema.ROW] + (not row[schema.END])
        ranges = ((since, stop),) if since < stop else ()
        total |= Coverage(ranges, row[schema.TOTAL], None, stop - since - (not row[schema.END]))
    return total
