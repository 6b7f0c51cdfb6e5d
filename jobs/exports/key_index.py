"""Results of an output on this machine's disk, found by key: for joins whose results do not fit in memory.

Results lie in one Arrow file that is mapped, not read. Beside them lies an index in BUCKETS sorted pieces: for each
key a 16-byte digest, and where its result is. What is held in memory is one bucket while the index is made, and what
was asked for afterwards; the rest is the operating system's to keep or to drop.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.schema import kind

BUCKETS = 256
ABSENT, AMBIGUOUS = -1, -2  # in place of a result's position
_RECORD = np.dtype([("mark", "S16"), ("at", "<i8")])
_DIGEST_ROWS = 4096

Array = np.ndarray[Any, Any]


class KeyIndex:
    """Filled once, then asked. `keys` are the columns that a row is found by, all others are its result."""

    def __init__(self, folder: Path, tables: Iterable[pa.Table], keys: Sequence[str]) -> None:
        self._folder = folder
        self._starts = self._fill(tables, keys)
        self._file = pa.ipc.open_file(pa.memory_map(str(folder / "results.arrow")))
        self._index = [self._settle(bucket) for bucket in range(BUCKETS)]

    @property
    def schema(self) -> pa.Schema:
        """Of a result."""
        return self._file.schema

    def find(self, keys: pa.Table) -> Array:
        """int64 [rows]: where the result for each row's key is, or ABSENT, or AMBIGUOUS where there are several."""
        wanted, known = marks(keys)
        found = np.full(len(wanted), ABSENT, np.int64)
        buckets = np.where(known, _bucket(wanted), BUCKETS)
        order = np.argsort(buckets, kind="stable")
        ends = np.searchsorted(buckets[order], np.arange(BUCKETS), side="right")
        for bucket, rows in enumerate(np.split(order, ends)[:BUCKETS]):
            there, at = self._index[bucket]
            if not rows.size or not there.size:
                continue
            nearest = np.minimum(np.searchsorted(there, wanted[rows]), len(there) - 1)
            found[rows] = np.where(there[nearest] == wanted[rows], at[nearest], ABSENT)
        return found

    def take(self, found: Array) -> pa.Table:
        """The results at these positions, in this order; nulls where there is none."""
        positions, rows = np.unique(found, return_inverse=True)
        none = int(np.count_nonzero(positions < 0))
        positions = positions[none:]
        batches = np.searchsorted(self._starts, positions, side="right") - 1
        pieces = [self.schema.empty_table()]
        for batch in np.unique(batches):
            inside = pa.array(positions[batches == batch] - self._starts[batch])
            pieces.append(pa.table(self._file.get_batch(int(batch)).take(inside)))
        distinct = pa.concat_tables(pieces).combine_chunks()
        return distinct.take(pa.array(np.maximum(rows - none, 0), mask=rows < none))

    def _fill(self, tables: Iterable[pa.Table], keys: Sequence[str]) -> Array:
        """Results and an index that is not sorted yet, on disk; the first position of each stored batch."""
        starts = [0]
        with ExitStack() as stack:
            buckets = [stack.enter_context(self._piece(bucket).open("wb")) for bucket in range(BUCKETS)]
            writer: Any = None
            for table in tables:
                results = table.drop_columns(list(keys)).combine_chunks()
                if writer is None:
                    writer = stack.enter_context(pa.ipc.new_file(str(self._folder / "results.arrow"), results.schema))
                writer.write_table(results)
                digests, known = marks(table.select(keys))
                records = np.empty(len(digests), _RECORD)
                records["mark"], records["at"] = digests, starts[-1] + np.arange(len(digests))
                records = np.sort(records[known], order="mark")
                ends = np.searchsorted(_bucket(records["mark"]), np.arange(BUCKETS), side="right")
                for piece, file in zip(np.split(records, ends), buckets, strict=False):
                    file.write(piece.tobytes())
                starts.append(starts[-1] + table.num_rows)
        return np.array(starts[:-1])

    def _settle(self, bucket: int) -> tuple[Array, Array]:
        """Sort a piece of the index: each key once, with the position of its result or AMBIGUOUS."""
        records = np.fromfile(self._piece(bucket), _RECORD)
        self._piece(bucket).unlink()
        records = records[np.argsort(records["mark"], kind="stable")]
        first = np.ones(len(records), bool)
        first[1:] = records["mark"][1:] != records["mark"][:-1]
        at, group = records["at"][first], np.cumsum(first) - 1
        again = np.flatnonzero(~first)
        differs = self._digests(records["at"][again]) != self._digests(at[group[again]])
        at[group[again[differs]]] = AMBIGUOUS
        return self._mapped(f"{bucket}.marks", records["mark"][first]), self._mapped(f"{bucket}.at", at)

    def _mapped(self, name: str, values: Array) -> Array:
        """The same values, on disk."""
        if not values.size:
            return values
        np.save(self._folder / f"{name}.npy", values)
        mapped: Array = np.load(self._folder / f"{name}.npy", mmap_mode="r")
        return mapped

    def _digests(self, positions: Array) -> Array:
        """S16 [positions]: equal where results are."""
        pieces = [positions[start : start + _DIGEST_ROWS] for start in range(0, len(positions), _DIGEST_ROWS)]
        return np.concatenate([np.empty(0, "S16"), *(_digests(map(_values, self.take(at).columns)) for at in pieces)])

    def _piece(self, bucket: int) -> Path:
        return self._folder / f"{bucket}.records"


def marks(keys: pa.Table) -> tuple[Array, Array]:
    """S16 [rows]: a digest of each row's key, the same for every Arrow type of one kind; bool [rows]: whether it has a
    key, which is that its first column is not null.
    """
    known = keys.column(0).is_valid().to_numpy(zero_copy_only=False)
    return _digests(map(_comparable, keys.columns)), known


def _digests(columns: Iterable[Sequence[Any]]) -> Array:
    rows = zip(*columns, strict=True)
    return np.frombuffer(b"".join(blake2b(repr(row).encode(), digest_size=16).digest() for row in rows), "S16")


def _comparable(column: pa.ChunkedArray) -> list[Any]:
    """Numbers as they are, text as bytes: it may not be UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values: list[Any] = (column if kind(column.type) != "text" else column.cast(pa.large_binary())).to_pylist()
    return values


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Vectors as bytes: a list of numbers for each would take a hundred times as long."""
    if not pa.types.is_fixed_size_list(column.type):
        return list(column.to_pylist())
    vectors = pc.list_flatten(column).to_numpy().reshape(-1, column.type.list_size)
    given = iter(vectors)
    return [next(given).tobytes() if valid else None for valid in column.is_valid().to_pylist()]


def _bucket(digests: Array) -> Array:
    """uint8 [digests]: the piece of the index that each belongs to."""
    return np.ascontiguousarray(digests).view(np.uint8).reshape(-1, 16)[:, 0]
