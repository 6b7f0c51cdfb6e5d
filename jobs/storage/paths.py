"""Paths as text: join, absolute form, globs and braces, local or s3://. Nothing here reads a disk."""

import os
import re

from fsspec.utils import glob_translate

GLOB = re.compile(r"[*?\[]")
_SCHEME = re.compile(r"\w+:/")
_BRACES = re.compile(r"\{([^{}]*)\}")


def join_path(folder: str, *names: str) -> str:
    return "/".join([folder.rstrip("/"), *names])


def expand_braces(path: str) -> list[str]:
    """`{a,b}` and `{00000..00127}`, as shells and webdataset expand them; a range keeps its zero padding."""
    match = _BRACES.search(path)
    if match is None:
        return [path]
    body = match.group(1)
    span = re.fullmatch(r"(\d+)\.\.(\d+)", body)
    if span:
        first, last = span.groups()
        step = 1 if int(first) <= int(last) else -1
        choices = [str(n).zfill(len(first)) for n in range(int(first), int(last) + step, step)]
    else:
        choices = body.split(",")
    head, tail = path[: match.start()], path[match.end() :]
    return [expanded for choice in choices for expanded in expand_braces(head + choice + tail)]


def fixed_folder(path: str) -> str:
    """The folder that names of the found objects are relative to: what comes before any pattern."""
    match = re.search(r"[*?\[{]", path)
    return absolute(path if match is None else path[: match.start()].rpartition("/")[0] or ".")


def absolute(path: str) -> str:
    """The path as found entries spell it, without a last slash."""
    return os.path.abspath(os.path.expanduser(path.removeprefix("file://"))) if is_local(path) else path.rstrip("/")


def listed_by(path: str, name: str) -> bool:
    """Whether a listing of the folder, file or pattern would find the object with this absolute name."""
    if name.startswith(f"{absolute(path)}/"):
        return True
    for pattern in map(absolute, expand_braces(path)):
        if re.match(glob_translate(pattern), name) if GLOB.search(pattern) else name.startswith(f"{pattern}/"):
            return True
    return False


def is_local(path: str) -> bool:
    """Not `s3:/bucket` either: a typo must not become a folder here."""
    return not _SCHEME.match(path) or path.startswith("file://")
