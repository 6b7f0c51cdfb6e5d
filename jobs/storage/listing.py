"""List local folders while other processes write into them."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from jobs.errors import StorageError

Info = dict[str, Any]


def list_files(folder: str, info: Callable[[str], Info]) -> dict[str, Info]:
    """Map each file below the folder to its `info`; links are followed. A file that vanishes meanwhile is left out: it
    is a temporary file of another run. Raises StorageError for a broken link, OSError for a folder that cannot be
    listed.
    """
    infos = {}
    for name in _walk(folder):
        with contextlib.suppress(FileNotFoundError):
            infos[name] = follow_link(name, info) if os.path.islink(name) else info(name)
    return infos


def follow_link(link: str, info: Callable[[str], Info]) -> Info:
    """Return the `info` of a link's target. Raises StorageError for a broken link, which may be a missing shard."""
    try:
        return info(link)
    except FileNotFoundError as exc:
        hint = "fetch the file (git annex get, dvc pull), or remove the link"
        raise StorageError(f"{link}: a link to {os.readlink(link)}, which does not exist", hint) from exc


def _walk(folder: str) -> Iterator[str]:
    """Yield the path of every file below; a folder that several links lead to is visited once."""

    def raise_unless_vanished(exc: OSError) -> None:
        if exc.filename == folder or not isinstance(exc, FileNotFoundError):
            raise exc

    seen: set[str] = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True, onerror=raise_unless_vanished):
        real = os.path.realpath(parent)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        yield from (os.path.join(parent, name) for name in names)
