"""Read a finished output as one sequence of rows in a fixed order. Exports and joins start from it."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import schema
from jobs.config import JobConfig
from jobs.errors import OutputError
from jobs.output import footer, identity, ledger
from jobs.output.identity import load_job
from jobs.output.layout import JOB, REJECTS, ROWS, SUCCESS
from jobs.output.ledger import OutputObject
from jobs.storage import Storage
from jobs.storage.paths import absolute, join_path

_THREADS = 8  # objects read at the same time, to hide the latency of requests


@dataclass(frozen=True)
class FinishedOutput:
    """The rows of an output, ordered by object name, then by position in the object.

    `objects` are the objects of rows/ that hold rows; `schema` is their schema with the first footer's metadata;
    `rejects` counts the rejected rows by reason.
    """

    storage: Storage
    config: JobConfig
    objects: tuple[OutputObject, ...]
    schema: pa.Schema
    rejects: dict[str, int]

    @classmethod
    def open(cls, output: str) -> "FinishedOutput":
        """Open an output by its folder or its recipe. Raises OutputError if it is not finished or has no rows."""
        storage, config = load_job(output)
        output = config.output.path
        run_again = f"coyo-jobs run {join_path(output, JOB)}"
        if not storage.exists(join_path(output, SUCCESS)):
            raise OutputError(f"{output}: is not finished: it has no {SUCCESS}", run_again)
        committed = ledger.read(storage, output)
        if committed.overlapping():
            raise OutputError(f"{output}: some rows are in more than one object", run_again)
        with_rows = (obj for obj in committed.objects if obj.folder == ROWS and obj.num_rows)
        objects = tuple(sorted(with_rows, key=lambda obj: obj.entry.path))
        if not objects:
            hint = f"see {join_path(output, REJECTS)}"
            raise OutputError(f"{output}: has no rows: every input row is a reject", hint)
        return cls(storage, config, objects, pq.read_schema(storage.open(objects[0].entry)), committed.reasons)

    @property
    def num_rows(self) -> int:
        return self._ends[-1]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(obj.num_rows for obj in self.objects))

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the job and of all objects; it changes when rows are computed again."""
        base = absolute(self.config.output.path)
        objects = [(obj.entry.path.removeprefix(base), obj.num_rows, obj.entry.size) for obj in self.objects]
        return hashlib.sha256(json.dumps([identity.fingerprint(self.config), objects]).encode()).hexdigest()[:16]

    @property
    def result_columns(self) -> list[str]:
        """The columns that models computed."""
        from_source = {schema.SHARD, schema.ROW, schema.KEY, *self.config.source.keep}
        return [name for name in self.schema.names if name not in from_source]

    @property
    def key_column(self) -> str | None:
        """The key's column name in the source; None if neither the footer nor the recipe names it."""
        stored = (self.schema.metadata or {}).get(schema.PROVENANCE.encode())
        from_footer = footer.decode_provenance(stored)[1].get(schema.KEY) if stored else None
        configured = self.config.source.key_column
        return from_footer or (configured if configured != "auto" else None)

    @property
    def text_column(self) -> str | None:
        """The kept column that holds the texts; None if the job did not keep them."""
        configured = self.config.source.text_column
        for name in schema.TEXT_NAMES if configured == "auto" else [configured]:
            if name in self.schema.names and schema.kind_of(self.schema.field(name).type) == "text":
                return name
        return None

    def class_names(self, column: str) -> list[str]:
        """The names of the class ids in this column, by id; empty for a column without class ids."""
        stored = (self.schema.metadata or {}).get(schema.CLASS_NAMES.get(column, "").encode())
        return list(json.loads(stored)) if stored else []

    def read(self, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
        """Read the rows from `start` up to, not including, `stop`. Only row groups that hold some of them are read.

        Raises OutputError for an object that cannot be read.
        """
        slices = []
        for index in range(bisect_right(self._ends, start), len(self.objects)):
            first = self._ends[index] - self.objects[index].num_rows
            if first >= stop:
                break
            slices.append((self.objects[index], max(0, start - first), stop - first))
        with ThreadPoolExecutor(_THREADS) as pool:
            return pa.concat_tables(pool.map(lambda part: self._read_slice(*part, columns=columns), slices))

    def iter_tables(self, columns: Sequence[str], size: int) -> Iterator[pa.Table]:
        """Yield all rows in tables of `size` rows."""
        for start in range(0, self.num_rows, size):
            yield self.read(start, min(start + size, self.num_rows), columns)

    def _read_slice(self, obj: OutputObject, start: int, stop: int, *, columns: Sequence[str]) -> pa.Table:
        try:
            file = pq.ParquetFile(self.storage.open(obj.entry), pre_buffer=True)
            ends = list(accumulate(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)))
            groups = [i for i, end in enumerate(ends) if end > start and (ends[i - 1] if i else 0) < stop]
            table = file.read_row_groups(groups, columns=list(columns), use_threads=False)
        except (OSError, pa.ArrowException) as exc:
            raise OutputError(
                f"{obj.entry.path}: cannot be read: {exc}", f"coyo-jobs verify {self.config.output.path} --deep"
            ) from exc
        skipped = ends[groups[0] - 1] if groups[0] else 0
        wanted = table.slice(start - skipped, min(stop, obj.num_rows) - start)
        return wanted.select(list(columns)).replace_schema_metadata()
