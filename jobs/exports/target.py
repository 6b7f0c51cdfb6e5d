"""The folder that is made from a finished output: whose it is, which of its files are whole, and what it holds.

Like an output it is its own ledger: each Parquet file says in its footer which export it belongs to and what it was
made from, so the same command again makes only what is missing. `_export.json` is written last.
"""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from jobs import __version__, schema
from jobs.errors import OutputError, StorageError
from jobs.log import say
from jobs.output import identity
from jobs.output.finished import FinishedOutput
from jobs.output.footer import read_footers
from jobs.output.layout import EXPORT
from jobs.storage import Entry, Storage
from jobs.storage.paths import absolute, join_path, listed_by

_THREADS = 32  # a footer is one or two small requests
_PACE = 10.0  # seconds
_OWN = "name a folder of its own"


class ThrottledLog:
    """Lines of progress on stderr, not more than one in ten seconds."""

    def __init__(self, command: str) -> None:
        self._command, self._next = command, time.monotonic() + _PACE

    def say(self, text: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _PACE
            say(self._command, text)


@dataclass(frozen=True)
class FileStats:
    """What a data file holds: its rows, its size in bytes as stored, and unpacked."""

    rows: int = 0
    stored: int = 0
    unpacked: int = 0


@dataclass(frozen=True)
class ExportFolder:
    """`about` is what makes this export this one: its form, the output's fingerprint, its options."""

    storage: Storage
    path: str
    about: dict[str, Any]

    @classmethod
    def of(
        cls, finished: FinishedOutput, path: str, about: Mapping[str, Any], inputs: Sequence[str] = ()
    ) -> "ExportFolder":
        """Raises OutputError where files would be read as input, or be taken for the output's own objects."""
        for taken in [finished.config.output.path, *finished.config.source.paths, *inputs]:
            if absolute(path) == absolute(taken) or listed_by(taken, join_path(absolute(path), "file.parquet")):
                raise OutputError(f"{path}: lies inside {taken}", _OWN)
        return cls(finished.storage, path, {**about, "output": finished.fingerprint})

    def finished(self) -> dict[str, Any] | None:
        """What `_export.json` says, where this export is complete. Raises OutputError where another one is."""
        path = join_path(self.path, EXPORT)
        if not self.storage.exists(path):
            return None
        said: dict[str, Any] = json.loads(self.storage.read(path))
        self._refuse_others(said.get("about"), path)
        return said

    def there(self, expected: Collection[str], beside: Collection[str] = ()) -> dict[str, dict[str, Any]]:
        """What the footers of this export's whole Parquet files say, by name. Raises OutputError for foreign files.

        Files that are no data may be `beside` the expected ones once there is data.
        """
        names = self._names()
        known = {*expected, *(beside if set(expected) & set(names) else ())}
        if foreign := [name for name in names if name not in known]:
            raise OutputError(f"{self.path}: holds {foreign[0] or 'a file'}, which is no part of this export", _OWN)
        parquet = {name: entry for name, entry in names.items() if name.endswith(".parquet")}
        footers = read_footers(self.storage, parquet.values(), _damaged)
        return {name: self._made(parquet[name], footer) for name, footer in zip(parquet, footers, strict=True)}

    def metadata(self, **made: Any) -> dict[str, str]:
        """The footer entry of a Parquet file: the export, and what of it this file is."""
        return {schema.EXPORT: json.dumps({"about": self.about, "made": made})}

    def put(self, name: str, data: bytes | memoryview) -> None:
        self.storage.put(join_path(self.path, name), data)

    def held(self, expected: Collection[str]) -> dict[str, FileStats]:
        """What the data files hold now, by name, read from their heads and footers."""
        files = {name: entry for name, entry in self._names().items() if name in expected}
        parquet = {name: entry for name, entry in files.items() if name.endswith(".parquet")}
        arrays = {name: entry for name, entry in files.items() if name not in parquet}
        footers = read_footers(self.storage, parquet.values(), _damaged)
        held = {name: _parquet_stats(parquet[name], footer) for name, footer in zip(parquet, footers, strict=True)}
        with ThreadPoolExecutor(_THREADS) as pool:
            return held | dict(zip(arrays, pool.map(partial(_array_stats, self.storage), arrays.values()), strict=True))

    def finish(self, said: Mapping[str, Any]) -> None:
        """Write `_export.json`; the folder is complete with it."""
        whole = {"about": self.about, **said, "coyo_jobs_version": __version__}
        with suppress(StorageError):  # housekeeping, and a right that not everybody has
            self.storage.abort_uploads(self.path)
        self.put(EXPORT, (json.dumps(whole, indent=2, ensure_ascii=False) + "\n").encode())

    def _names(self) -> dict[str, Entry]:
        """By name; without what is hidden: what a killed write left behind, or .git."""
        base = absolute(self.path)
        names = {entry.path.removeprefix(base).lstrip("/"): entry for entry in self.storage.tree(self.path)}
        return {name: entry for name, entry in names.items() if not any(p.startswith(".") for p in name.split("/"))}

    def _made(self, entry: Entry, footer: pq.FileMetaData) -> dict[str, Any]:
        """What of this export the file is, as its footer says. Raises OutputError for a file of another export."""
        export: dict[str, Any] = json.loads((footer.metadata or {}).get(schema.EXPORT.encode(), b"{}"))
        self._refuse_others(export.get("about"), entry.path)
        made: dict[str, Any] = export["made"]
        return made

    def _refuse_others(self, about: Any, where: str) -> None:
        if about == self.about:
            return
        if not isinstance(about, dict):
            raise OutputError(f"{where}: is not from an export", _OWN)
        names = [name for name in {**self.about, **about} if about.get(name) != self.about.get(name)]
        differences = "; ".join(f"{name} was {about.get(name)!r}, now {self.about.get(name)!r}" for name in names)
        raise OutputError(f"{where}: belongs to another export: {differences}", _OWN)


def _damaged(entry: Entry, why: Exception) -> OutputError:
    return OutputError(f"{entry.path}: not a whole Parquet file ({why})", f"delete it, or {_OWN}")


def describe(finished: FinishedOutput) -> dict[str, Any]:
    """What the rows are, for `_export.json`: their job, models and rejects."""
    models = json.loads((finished.schema.metadata or {}).get(schema.MODELS.encode(), b"{}"))
    return {"job": identity.fingerprint(finished.config), "models": models, "rejects": finished.rejects}


def _parquet_stats(entry: Entry, footer: pq.FileMetaData) -> FileStats:
    unpacked = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
    return FileStats(footer.num_rows, entry.size, unpacked)


def _array_stats(storage: Storage, entry: Entry) -> FileStats:
    """Of a .npy file, by its header; one that is shorter or longer than its header says has no rows."""
    with storage.open(entry) as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        whole = file.tell() + dtype.itemsize * int(np.prod(shape)) == entry.size
        return FileStats(int(shape[0]) if whole else 0, entry.size, entry.size)
