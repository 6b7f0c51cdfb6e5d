"""An index of results by key on this machine's disk, for joins whose results do not fit in memory.

The results are in one Arrow file, memory-mapped. The index has BUCKETS sorted buckets: for each key a 16-byte digest
and the position of its result. Building needs memory for one bucket, a lookup for its own results. The operating
system may drop the mapped pages at any time.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.schema import kind_of

BUCKETS = 256
ABSENT, AMBIGUOUS = -1, -2  # instead of a position: no result, or several that differ
_RECORD = np.dtype([("digest", "S16"), ("position", "<i8")])
_DIGEST_ROWS = 4096

Array = np.ndarray[Any, Any]


class KeyIndex:
    """Built once from tables, then read. `keys` are the key columns; all other columns are the result.

    Files go into `folder`, which must exist as long as the index. Raises OSError if the disk is full.
    """

    def __init__(self, folder: Path, tables: Iterable[pa.Table], keys: Sequence[str]) -> None:
        self._folder = folder
        self._starts = self._fill(tables, keys)
        self._file = pa.ipc.open_file(pa.memory_map(str(folder / "results.arrow")))
        self._index = [self._sort_bucket(bucket) for bucket in range(BUCKETS)]

    @property
    def schema(self) -> pa.Schema:
        """The schema of the results."""
        return self._file.schema

    def find(self, keys: pa.Table) -> Array:
        """Return, for each row's key, its result's position, ABSENT or AMBIGUOUS: int64 [rows]."""
        digests, valid = hash_keys(keys)
        found = np.full(len(digests), ABSENT, np.int64)
        buckets = np.where(valid, _bucket(digests), BUCKETS)
        order = np.argsort(buckets, kind="stable")
        ends = np.searchsorted(buckets[order], np.arange(BUCKETS), side="right")
        for bucket, rows in enumerate(np.split(order, ends)[:BUCKETS]):
            indexed, positions = self._index[bucket]
            if not rows.size or not indexed.size:
                continue
            nearest = np.minimum(np.searchsorted(indexed, digests[rows]), len(indexed) - 1)
            found[rows] = np.where(indexed[nearest] == digests[rows], positions[nearest], ABSENT)
        return found

    def take(self, found: Array) -> pa.Table:
        """Return the results at the positions from `find`, in this order; nulls for ABSENT and AMBIGUOUS."""
        positions, inverse = np.unique(found, return_inverse=True)
        negative = int(np.count_nonzero(positions < 0))
        positions = positions[negative:]
        batches = np.searchsorted(self._starts, positions, side="right") - 1
        tables = [self.schema.empty_table()]
        for batch in np.unique(batches):
            in_batch = pa.array(positions[batches == batch] - self._starts[batch])
            tables.append(pa.table(self._file.get_batch(int(batch)).take(in_batch)))
        distinct = pa.concat_tables(tables).combine_chunks()
        return distinct.take(pa.array(np.maximum(inverse - negative, 0), mask=inverse < negative))

    def _fill(self, tables: Iterable[pa.Table], keys: Sequence[str]) -> Array:
        """Write the results and the unsorted buckets; return the position of each stored batch's first result."""
        starts = [0]
        with ExitStack() as stack:
            buckets = [stack.enter_context(self._bucket_path(bucket).open("wb")) for bucket in range(BUCKETS)]
            writer: Any = None
            for table in tables:
                results = table.drop_columns(list(keys)).combine_chunks()
                if writer is None:
                    writer = stack.enter_context(pa.ipc.new_file(str(self._folder / "results.arrow"), results.schema))
                writer.write_table(results)
                digests, valid = hash_keys(table.select(keys))
                records = np.empty(len(digests), _RECORD)
                records["digest"], records["position"] = digests, starts[-1] + np.arange(len(digests))
                records = np.sort(records[valid], order="digest")
                ends = np.searchsorted(_bucket(records["digest"]), np.arange(BUCKETS), side="right")
                for part, file in zip(np.split(records, ends), buckets, strict=False):
                    file.write(part.tobytes())
                starts.append(starts[-1] + table.num_rows)
        return np.array(starts[:-1])

    def _sort_bucket(self, bucket: int) -> tuple[Array, Array]:
        """Sort a bucket and return its digests, each once, and their positions; AMBIGUOUS if results differ."""
        records = np.fromfile(self._bucket_path(bucket), _RECORD)
        self._bucket_path(bucket).unlink()
        records = records[np.argsort(records["digest"], kind="stable")]
        first = np.ones(len(records), bool)
        first[1:] = records["digest"][1:] != records["digest"][:-1]
        positions, group = records["position"][first], np.cumsum(first) - 1
        repeated = np.flatnonzero(~first)
        differs = self._hash_results(records["position"][repeated]) != self._hash_results(positions[group[repeated]])
        positions[group[repeated[differs]]] = AMBIGUOUS
        digests = self._on_disk(f"{bucket}.digests", records["digest"][first])
        return digests, self._on_disk(f"{bucket}.positions", positions)

    def _on_disk(self, name: str, values: Array) -> Array:
        """Save the values, and return them memory-mapped."""
        if not values.size:
            return values
        np.save(self._folder / f"{name}.npy", values)
        mapped: Array = np.load(self._folder / f"{name}.npy", mmap_mode="r")
        return mapped

    def _hash_results(self, positions: Array) -> Array:
        """Digests of the results at these positions, S16 [positions]."""
        parts = [positions[start : start + _DIGEST_ROWS] for start in range(0, len(positions), _DIGEST_ROWS)]
        digests = (_hash_rows(map(_result_values, self.take(part).columns)) for part in parts)
        return np.concatenate([np.empty(0, "S16"), *digests])

    def _bucket_path(self, bucket: int) -> Path:
        return self._folder / f"{bucket}.records"


def hash_keys(keys: pa.Table) -> tuple[Array, Array]:
    """Digests of the rows' keys, S16 [rows], and whether each key is valid, bool [rows].

    Equal keys have equal digests even if their Arrow types differ, e.g. int32 and int64. A key is valid if its first
    column is not null.
    """
    valid = keys.column(0).is_valid().to_numpy(zero_copy_only=False)
    return _hash_rows(map(_key_values, keys.columns)), valid


def _hash_rows(columns: Iterable[Sequence[Any]]) -> Array:
    rows = zip(*columns, strict=True)
    return np.frombuffer(b"".join(blake2b(repr(row).encode(), digest_size=16).digest() for row in rows), "S16")


def _key_values(column: pa.ChunkedArray) -> list[Any]:
    """Numbers as Python numbers, text as bytes, because it may be invalid UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values: list[Any] = (column if kind_of(column.type) != "text" else column.cast(pa.large_binary())).to_pylist()
    return values


def _result_values(column: pa.ChunkedArray) -> list[Any]:
    """Python values, but vectors as bytes: lists of numbers would take a hundred times as long."""
    if not pa.types.is_fixed_size_list(column.type):
        return list(column.to_pylist())
    vectors = iter(pc.list_flatten(column).to_numpy().reshape(-1, column.type.list_size))
    return [next(vectors).tobytes() if valid else None for valid in column.is_valid().to_pylist()]


def _bucket(digests: Array) -> Array:
    """The bucket of each digest, its first byte: uint8 [digests]."""
    return np.ascontiguousarray(digests).view(np.uint8).reshape(-1, 16)[:, 0]
