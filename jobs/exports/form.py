"""The interface of an export format: names for its files, and how rows become file contents."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa


@dataclass(frozen=True)
class FileRange:
    """Rows `start` to `stop` (exclusive) of the output: part `number`, counted from 0, of `total` parts."""

    number: int
    total: int
    start: int
    stop: int


@dataclass(frozen=True)
class FileContents:
    """The contents of one part's files: a table, and the bytes of arrays with the same rows, made one at a time.

    `left_out` counts the rows that the format cannot hold, by reason.
    """

    table: pa.Table
    arrays: Iterable[memoryview] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


class ExportFormat(Protocol):
    """Made from a finished output; the constructor raises OutputError if the output lacks what the format needs."""

    @property
    def columns(self) -> Sequence[str]:
        """The columns of rows/ that the format reads."""

    @property
    def notes(self) -> Sequence[str]:
        """Messages for the user before the export: what the files will lack."""

    @property
    def extra_files(self) -> Mapping[str, Callable[[Mapping[str, Any]], bytes]]:
        """Files without rows, written last; each name maps to a function from `_export.json` to the file's bytes."""

    def file_names(self, part: FileRange) -> list[str]:
        """The part's files: arrays first, then its Parquet file, which is written last and marks the part complete."""

    def convert(self, rows: pa.Table) -> FileContents:
        """Convert the rows of one part to the contents of its files."""
