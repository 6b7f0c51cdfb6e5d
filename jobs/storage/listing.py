"""Local folders, listed while others write into them."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from jobs.errors import StorageError

Info = dict[str, Any]


def files(folder: str, info: Callable[[str], Info]) -> dict[str, Info]:
    """What `info` says of every file below, through links too. One that is gone by then is left out: what other runs
    write has another name until it is whole. Raises StorageError for a link to nothing, OSError for a folder that
    cannot be listed.
    """
    found = {}
    for name in _walk(folder):
        with contextlib.suppress(FileNotFoundError):
            found[name] = behind(name, info) if os.path.islink(name) else info(name)
    return found


def behind(link: str, info: Callable[[str], Info]) -> Info:
    """What `info` says of the file that a link leads to. Raises StorageError where there is none: left out, a shard
    would be missed by nobody.
    """
    try:
        return info(link)
    except FileNotFoundError as exc:
        hint = "fetch the file (git annex get, dvc pull), or remove the link"
        raise StorageError(f"{link}: a link to {os.readlink(link)}, which is not there", hint) from exc


def _walk(folder: str) -> Iterator[str]:
    """Each folder once."""

    def refuse(exc: OSError) -> None:
        if exc.filename == folder or not isinstance(exc, FileNotFoundError):
            raise exc

    seen: set[str] = set()
    for here, inner, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(here)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        yield from (os.path.join(here, name) for name in names)
