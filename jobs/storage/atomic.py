"""Objects to write piece by piece that are visible whole or not at all, whatever happens while they are written."""

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

# What mounts of buckets and shares say, which have no links, and folders that cannot be synced.
_CANNOT = (errno.EPERM, errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def file(name: str, reveal: Callable[[str, str], None] = os.replace) -> Iterator[BinaryIO]:
    """Open a local file that gets its name when it is whole. `reveal(temporary, name)` names it: `create_exclusive`
    refuses a name that is taken, `os.replace` replaces what has it.
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
        if exc.errno not in _CANNOT:
            raise
    finally:
        os.close(handle)


def create_exclusive(temporary: str, name: str) -> None:
    """Raises FileExistsError where the name is taken; of several at once one succeeds."""
    try:
        os.link(temporary, name)
    except OSError as exc:
        if exc.errno not in _CANNOT:
            raise
        with open(name, "xb") as there, open(temporary, "rb") as made:  # for a moment it is there and empty
            there.write(made.read())


@contextlib.contextmanager
def upload(fs: Any, name: str) -> Iterator[BinaryIO]:
    """An object on S3: a multipart upload that is completed last, or aborted."""
    opened = fs.open(name, "wb", autocommit=False)
    fs.transaction.files.remove(opened)  # which would hold it for ever: nobody ends that transaction
    try:
        yield opened
        opened.close()
        opened.commit()
    except BaseException:
        opened.closed = True  # or a small one would start its upload when it is collected
        opened.discard()
        raise
