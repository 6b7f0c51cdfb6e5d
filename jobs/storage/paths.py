"""Path strings, local or with a scheme: joining, absolute form, globs and braces. Reads no disk."""

import os
import re

from fsspec.utils import glob_translate

GLOB_CHARACTERS = re.compile(r"[*?\[]")
_SCHEME = re.compile(r"\w+:/")
_BRACES = re.compile(r"\{([^{}]*)\}")


def join_path(folder: str, *names: str) -> str:
    """Join with slashes, local or with a scheme."""
    return "/".join([folder.rstrip("/"), *names])


def expand_braces(path: str) -> list[str]:
    """Expand `{a,b}` and `{00000..00127}` like a shell or webdataset; a range keeps its zero padding."""
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


def base_folder(path: str) -> str:
    """The folder that shard names are relative to: the path up to its first pattern character."""
    match = re.search(r"[*?\[{]", path)
    return absolute(path if match is None else path[: match.start()].rpartition("/")[0] or ".")


def absolute(path: str) -> str:
    """The path as entries of a listing have it: absolute if local, without a trailing slash."""
    return os.path.abspath(os.path.expanduser(path.removeprefix("file://"))) if is_local(path) else path.rstrip("/")


def matches(path: str, name: str) -> bool:
    """Whether the folder or pattern `path` includes the object with this absolute name."""
    if name.startswith(f"{absolute(path)}/"):
        return True
    for pattern in map(absolute, expand_braces(path)):
        if (
            re.match(glob_translate(pattern), name)
            if GLOB_CHARACTERS.search(pattern)
            else name.startswith(f"{pattern}/")
        ):
            return True
    return False


def is_local(path: str) -> bool:
    """Whether a path has no scheme, or file://. `s3:/bucket` is not local: a typo must not create a folder."""
    return not _SCHEME.match(path) or path.startswith("file://")
