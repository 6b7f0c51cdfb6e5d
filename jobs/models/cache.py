"""A cache on this machine's disk, for results that take seconds to compute. Its files may vanish at any time."""

import hashlib
from contextlib import suppress
from pathlib import Path

from jobs.storage import atomic

CACHE = Path("~/.cache/coyo-jobs").expanduser()
_DIGEST_BYTES = hashlib.sha256().digest_size


def get(kind: str, key: str) -> bytes | None:
    """Return what `put` stored under the key; None if there is no file, or it is damaged or not readable."""
    try:
        stored = _file(kind, key).read_bytes()
    except OSError:
        return None
    digest, data = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
    return data if digest == hashlib.sha256(data).digest() else None


def put(kind: str, key: str, data: bytes) -> None:
    """Store data under the key, atomically. Do nothing if the folder is not writable, as in some containers."""
    with suppress(OSError), atomic.write_file(str(_file(kind, key))) as file:
        file.write(hashlib.sha256(data).digest() + data)


def _file(kind: str, key: str) -> Path:
    return CACHE / kind / hashlib.sha256(key.encode()).hexdigest()[:32]
