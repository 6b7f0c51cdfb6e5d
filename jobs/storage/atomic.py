"""Atomic sequential writes: an object appears complete or not at all."""

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

# Errors of file systems without hard links, or without fsync of folders: mounted buckets and network shares.
_UNSUPPORTED = (errno.EPERM, errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def write_file(name: str, reveal: Callable[[str, str], None] = os.replace) -> Iterator[BinaryIO]:
    """Open a local file for writing under a temporary name. When the block ends, `reveal(temporary, name)` renames it:
    `os.replace` overwrites an existing file, `create_exclusive` raises FileExistsError.
    """
    folder = os.path.dirname(name)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{os.path.basename(name)}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        reveal(temporary, name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    handle = os.open(folder, os.O_RDONLY)  # the rename itself must survive a power cut
    try:
        os.fsync(handle)
    except OSError as exc:
        if exc.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(handle)


def create_exclusive(temporary: str, name: str) -> None:
    """Give the temporary file its name. Raises FileExistsError if the name exists; of several callers, one succeeds."""
    try:
        os.link(temporary, name)
    except OSError as exc:
        if exc.errno not in _UNSUPPORTED:
            raise
        with open(name, "xb") as target, open(temporary, "rb") as source:  # not atomic: empty for a moment
            target.write(source.read())


@contextlib.contextmanager
def upload(fs: Any, name: str) -> Iterator[BinaryIO]:
    """Open an S3 object for writing: a multipart upload, completed when the block ends, aborted if it raises."""
    opened = fs.open(name, "wb", autocommit=False)
    fs.transaction.files.remove(opened)  # the transaction is never ended and would keep the file
    try:
        yield opened
        opened.close()
        opened.commit()
    except BaseException:
        opened.closed = True  # else the garbage collector would upload a small file
        opened.discard()
        raise
