"""What a form of export is: names for its files, and how rows become them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa


@dataclass(frozen=True)
class FileRange:
    """The rows of the output from `start` to `stop`; part `number` of `of`, counted from 0."""

    number: int
    of: int
    start: int
    stop: int


@dataclass(frozen=True)
class Files:
    """What one part's files hold: a table, arrays with the same rows (their bytes, made one at a time), and how many
    rows were left out, by reason.
    """

    table: pa.Table
    arrays: Iterable[memoryview] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


class Form(Protocol):
    """Made from a finished output; making one raises OutputError where the output lacks what the form needs."""

    @property
    def columns(self) -> Sequence[str]:
        """Of rows/, those to read."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know before: what the output could not give."""

    @property
    def beside(self) -> Mapping[str, Callable[[Mapping[str, Any]], bytes]]:
        """Files that are no data, written when all data is: what they hold, from what `_export.json` will say."""

    def names(self, part: FileRange) -> list[str]:
        """The part's files: arrays, then its Parquet file, which is written last and says that the part is whole."""

    def files(self, rows: pa.Table) -> Files:
        """What the part's files hold, from its rows."""
