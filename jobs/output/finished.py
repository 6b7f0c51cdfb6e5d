"""A finished output, read as one sequence of rows in a fixed order: what exports and joins start from."""

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
from jobs.output.ledger import Ledger, Object
from jobs.storage import Storage
from jobs.storage.paths import absolute, join_path

_THREADS = 8  # objects read at once: requests wait for each other otherwise


@dataclass(frozen=True)
class FinishedOutput:
    """The rows of an output in the order of its objects' names, and of the rows in each.

    `objects` are those of rows/ that hold any; `schema` is theirs, with the footer's metadata.
    """

    storage: Storage
    config: JobConfig
    objects: tuple[Object, ...]
    schema: pa.Schema
    rejects: dict[str, int]

    @classmethod
    def open(cls, output: str) -> "FinishedOutput":
        """Raises OutputError for what is no output, is not finished, or has no rows."""
        storage, config = load_job(output)
        output = config.output.path
        again = f"coyo-jobs run {join_path(output, JOB)}"
        if not storage.exists(join_path(output, SUCCESS)):
            raise OutputError(f"{output}: is not finished, there is no {SUCCESS}", again)
        books = ledger.read(storage, output)
        if books.overlapping():
            raise OutputError(f"{output}: some rows are in more than one object", again)
        objects = tuple(sorted(_with_rows(books), key=lambda obj: obj.entry.path))
        if not objects:
            hint = f"see {join_path(output, REJECTS)}"
            raise OutputError(f"{output}: has no rows, every input row is a reject", hint)
        return cls(storage, config, objects, pq.read_schema(storage.open(objects[0].entry)), books.reasons)

    @property
    def count(self) -> int:
        return self._ends[-1]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(obj.count for obj in self.objects))

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the job, and with any object: rows that were computed again are another output."""
        base = absolute(self.config.output.path)
        objects = [(obj.entry.path.removeprefix(base), obj.count, obj.entry.size) for obj in self.objects]
        return hashlib.sha256(json.dumps([identity.fingerprint(self.config), objects]).encode()).hexdigest()[:16]

    @property
    def results(self) -> list[str]:
        """The columns that models made."""
        given = {schema.SHARD, schema.ROW, schema.KEY, *self.config.source.keep}
        return [name for name in self.schema.names if name not in given]

    @property
    def key_column(self) -> str | None:
        """What the source called the key; None where nothing says so."""
        stored = (self.schema.metadata or {}).get(schema.PROVENANCE.encode())
        said = footer.decode_provenance(stored)[1].get(schema.KEY) if stored else None
        named = self.config.source.key_column
        return said or (named if named != "auto" else None)

    @property
    def texts(self) -> str | None:
        """The kept column with the texts, where the job kept them."""
        named = self.config.source.text_column
        for name in schema.TEXT_NAMES if named == "auto" else [named]:
            if name in self.schema.names and schema.kind(self.schema.field(name).type) == "text":
                return name
        return None

    def class_names(self, column: str) -> list[str]:
        """The names of the class ids in this column; empty where it holds none."""
        stored = (self.schema.metadata or {}).get(schema.CLASS_NAMES.get(column, "").encode())
        return list(json.loads(stored)) if stored else []

    def read(self, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
        """The rows from `start` to `stop`; of the objects only the row groups with any of them are read."""
        pieces = []
        for index in range(bisect_right(self._ends, start), len(self.objects)):
            first = self._ends[index] - self.objects[index].count
            if first >= stop:
                break
            pieces.append((self.objects[index], max(0, start - first), stop - first))
        with ThreadPoolExecutor(_THREADS) as pool:
            return pa.concat_tables(pool.map(lambda piece: self._piece(*piece, columns=columns), pieces))

    def tables(self, columns: Sequence[str], size: int) -> Iterator[pa.Table]:
        """All rows, `size` at a time."""
        for start in range(0, self.count, size):
            yield self.read(start, min(start + size, self.count), columns)

    def _piece(self, obj: Object, start: int, stop: int, *, columns: Sequence[str]) -> pa.Table:
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
        wanted = table.slice(start - skipped, min(stop, obj.count) - start)
        return wanted.select(list(columns)).replace_schema_metadata()


def _with_rows(books: Ledger) -> list[Object]:
    return [obj for obj in books.objects if obj.folder == ROWS and obj.count]
