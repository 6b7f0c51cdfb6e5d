"""The folder of an export or a join: which export it belongs to, which of its files are complete, and their row counts.

Each Parquet file's footer names its export and the output that it was made from. So the same command, run again,
writes only the files that are missing. `_export.json` is written last.
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
from jobs.storage.paths import absolute, join_path, matches

_THREADS = 32  # a .npy header is one small request, so latency is the limit
_LOG_INTERVAL = 10.0  # seconds
_HINT = "name a folder that only this export uses"


class ThrottledLog:
    """Progress lines in the log, at most one in ten seconds."""

    def __init__(self, command: str) -> None:
        self._command, self._next = command, time.monotonic() + _LOG_INTERVAL

    def say(self, text: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LOG_INTERVAL
            say(self._command, text)


@dataclass(frozen=True)
class FileStats:
    """Rows of a data file, its bytes as stored, and its bytes uncompressed."""

    rows: int = 0
    stored: int = 0
    unpacked: int = 0


@dataclass(frozen=True)
class ExportFolder:
    """The folder of one export. `about` identifies the export: its form, its options, and the output's fingerprint."""

    storage: Storage
    path: str
    about: dict[str, Any]

    @classmethod
    def for_output(
        cls, finished: FinishedOutput, path: str, about: Mapping[str, Any], inputs: Sequence[str] = ()
    ) -> "ExportFolder":
        """The folder `path` for an export of this output.

        Raises OutputError for a folder inside the output, its source, or one of `inputs`.
        """
        for taken in [finished.config.output.path, *finished.config.source.paths, *inputs]:
            if absolute(path) == absolute(taken) or matches(taken, join_path(absolute(path), "file.parquet")):
                raise OutputError(f"{path}: lies inside {taken}", _HINT)
        return cls(finished.storage, path, {**about, "output": finished.fingerprint})

    def read_contents(self) -> dict[str, Any] | None:
        """Return `_export.json` of a complete export, None for an incomplete one.

        Raises OutputError if the folder belongs to another export.
        """
        path = join_path(self.path, EXPORT)
        if not self.storage.exists(path):
            return None
        contents: dict[str, Any] = json.loads(self.storage.read(path))
        self._check_same_export(contents.get("about"), path)
        return contents

    def complete_files(self, expected: Collection[str], extra: Collection[str] = ()) -> dict[str, dict[str, Any]]:
        """Return the Parquet files that are complete: by name, the values that were passed to `footer_metadata`.

        `extra` files without rows are accepted if any expected file exists. Raises OutputError for any other file.
        """
        names = self._entries()
        known = {*expected, *(extra if set(expected) & set(names) else ())}
        if foreign := [name for name in names if name not in known]:
            raise OutputError(f"{self.path}: holds {foreign[0] or 'a file'}, which is no part of this export", _HINT)
        parquet = {name: entry for name, entry in names.items() if name.endswith(".parquet")}
        footers = read_footers(self.storage, parquet.values(), _damaged)
        return {name: self._made(parquet[name], footer) for name, footer in zip(parquet, footers, strict=True)}

    def footer_metadata(self, **made: Any) -> dict[str, str]:
        """The footer entry of a Parquet file: which export it belongs to, and facts about this file."""
        return {schema.EXPORT: json.dumps({"about": self.about, "made": made})}

    def put(self, name: str, data: bytes | memoryview) -> None:
        self.storage.put(join_path(self.path, name), data)

    def file_stats(self, expected: Collection[str]) -> dict[str, FileStats]:
        """Read the stats of the expected files that exist, by name, from Parquet footers and .npy headers."""
        files = {name: entry for name, entry in self._entries().items() if name in expected}
        parquet = {name: entry for name, entry in files.items() if name.endswith(".parquet")}
        arrays = {name: entry for name, entry in files.items() if name not in parquet}
        footers = read_footers(self.storage, parquet.values(), _damaged)
        stats = {name: _parquet_stats(parquet[name], footer) for name, footer in zip(parquet, footers, strict=True)}
        with ThreadPoolExecutor(_THREADS) as pool:
            array_stats = pool.map(partial(_array_stats, self.storage), arrays.values())
            return stats | dict(zip(arrays, array_stats, strict=True))

    def write_contents(self, contents: Mapping[str, Any]) -> None:
        """Write `_export.json`, which marks the export complete."""
        with_origin = {"about": self.about, **contents, "coyo_jobs_version": __version__}
        with suppress(StorageError):  # optional cleanup: not every user has the permission
            self.storage.abort_uploads(self.path)
        self.put(EXPORT, (json.dumps(with_origin, indent=2, ensure_ascii=False) + "\n").encode())

    def _entries(self) -> dict[str, Entry]:
        """The folder's files by relative path, without hidden ones: temporary files of a killed write, or .git."""
        base = absolute(self.path)
        names = {entry.path.removeprefix(base).lstrip("/"): entry for entry in self.storage.list_files(self.path)}
        return {name: entry for name, entry in names.items() if not any(p.startswith(".") for p in name.split("/"))}

    def _made(self, entry: Entry, footer: pq.FileMetaData) -> dict[str, Any]:
        """Read what was passed to `footer_metadata`. Raises OutputError for a file of another export."""
        export: dict[str, Any] = json.loads((footer.metadata or {}).get(schema.EXPORT.encode(), b"{}"))
        self._check_same_export(export.get("about"), entry.path)
        made: dict[str, Any] = export["made"]
        return made

    def _check_same_export(self, about: Any, path: str) -> None:
        if about == self.about:
            return
        if not isinstance(about, dict):
            raise OutputError(f"{path}: is not from an export", _HINT)
        names = [name for name in {**self.about, **about} if about.get(name) != self.about.get(name)]
        differences = "; ".join(f"{name} was {about.get(name)!r}, now {self.about.get(name)!r}" for name in names)
        raise OutputError(f"{path}: belongs to another export: {differences}", _HINT)


def _damaged(entry: Entry, cause: Exception) -> OutputError:
    return OutputError(f"{entry.path}: not a whole Parquet file ({cause})", f"delete it, or {_HINT}")


def describe(finished: FinishedOutput) -> dict[str, Any]:
    """The part of `_export.json` about the output: its job's fingerprint, models, and rejects by reason."""
    models = json.loads((finished.schema.metadata or {}).get(schema.MODELS.encode(), b"{}"))
    return {"job": identity.fingerprint(finished.config), "models": models, "rejects": finished.rejects}


def _parquet_stats(entry: Entry, footer: pq.FileMetaData) -> FileStats:
    unpacked = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
    return FileStats(footer.num_rows, entry.size, unpacked)


def _array_stats(storage: Storage, entry: Entry) -> FileStats:
    """Read the header of a .npy file; a file whose size does not match its header counts as 0 rows."""
    with storage.open(entry) as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        whole = file.tell() + dtype.itemsize * int(np.prod(shape)) == entry.size
        return FileStats(int(shape[0]) if whole else 0, entry.size, entry.size)
