"""The Parquet footer of an output object: which input rows the object holds. It is the ledger's only source.

For each shard the footer gives the accounted row ranges, half open; how many of those rows were not selected, and so
are in no object; the shard's row count, if the shard's end passed through this object; and the damage, if its reader
found any.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import JobError
from jobs.row_ranges import Coverage
from jobs.storage import Entry, Storage

_THREADS = 32  # a footer is one or two small requests: latency counts, not bandwidth
_ROW_GROUP = 4096  # about 11 MB of embeddings: one read for a reader, little to hold


def read_footers(
    storage: Storage, entries: Iterable[Entry], damaged: Callable[[Entry, Exception], JobError]
) -> list[pq.FileMetaData]:
    """Read the footers of these Parquet objects at once, in their order; raises `damaged(entry, why)` for a bad one."""

    def read(entry: Entry) -> pq.FileMetaData:
        try:
            return pq.read_metadata(storage.open(entry))
        except (OSError, pa.ArrowException) as exc:
            raise damaged(entry, exc) from exc

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(read, entries))


def encode_provenance(shards: dict[str, Coverage], **about: str) -> bytes:
    body = {
        name: {"ranges": c.ranges, "total": c.total, "damage": c.damage, "unselected": c.unselected}
        for name, c in shards.items()
    }
    return json.dumps({**about, "shards": body}, separators=(",", ":")).encode()


def decode_provenance(data: bytes) -> tuple[dict[str, Coverage], dict[str, str]]:
    """The coverage by shard, and what else was said about the object."""
    body = json.loads(data)
    shards = {
        name: Coverage(tuple((a, b) for a, b in c["ranges"]), c["total"], c["damage"], c.get("unselected", 0))
        for name, c in body.pop("shards").items()
    }
    return shards, body


def parquet_bytes(table: pa.Table, metadata: Mapping[Any, Any]) -> memoryview:
    """The bytes of one Parquet object, with its footer."""
    buffer = pa.BufferOutputStream()
    table = table.replace_schema_metadata(metadata)
    pq.write_table(table, buffer, row_group_size=_ROW_GROUP, **parquet_options(table.schema))
    return memoryview(buffer.getvalue())


def parquet_options(columns: pa.Schema) -> dict[str, Any]:
    """How Parquet is written. Embeddings get no dictionary: it made them 4 % to 60 % bigger, and writing and reading
    them took twice as long.
    """
    repeating = [field for field in columns if not pa.types.is_fixed_size_list(field.type)]
    lists = [f"{field.name}.list.element" for field in repeating if pa.types.is_list(field.type)]
    return {"compression": "zstd", "use_dictionary": [*lists, *(field.name for field in repeating)]}
