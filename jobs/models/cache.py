"""What this machine found out once and need not find out again: small files that may vanish at any time."""

import hashlib
from contextlib import suppress
from pathlib import Path

from jobs.storage import atomic

CACHE = Path("~/.cache/coyo-jobs").expanduser()
_DIGEST = hashlib.sha256().digest_size


def recall(kind: str, key: str) -> bytes | None:
    """What was remembered under the key; None also for a file that was damaged since."""
    try:
        held = _file(kind, key).read_bytes()
    except OSError:  # none yet, or none that this user may read
        return None
    digest, data = held[:_DIGEST], held[_DIGEST:]
    return data if digest == hashlib.sha256(data).digest() else None


def remember(kind: str, key: str, data: bytes) -> None:
    """Whole or not at all. Where nothing can be written, as in some containers, it is forgotten."""
    with suppress(OSError), atomic.file(str(_file(kind, key))) as file:
        file.write(hashlib.sha256(data).digest() + data)


def _file(kind: str, key: str) -> Path:
    return CACHE / kind / hashlib.sha256(key.encode()).hexdigest()[:32]
