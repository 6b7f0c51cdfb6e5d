"""Ranged reads of one object, as it was when it was listed; and an object as a file made of them."""

import io
import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, cast

from fsspec.asyn import AsyncFileSystem, sync

from jobs.storage.retry import ShortRead, error_code


class ObjectChanged(Exception):
    """The object is not the one that was listed."""


class RangeFile(io.RawIOBase):
    """A file whose every read is one ranged read. What that raises passes through, so that a reader of formats can
    tell a lost network from damaged data.
    """

    def __init__(self, size: int, read_range: Callable[[int, int], bytes]) -> None:
        self._size, self._read_range, self._at = size, read_range, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
        data = self._read_range(self._at, end) if end > self._at else b""
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class ReadAheadFile(io.RawIOBase):
    """The same from the first byte to the last, in requests of `chunk` bytes; `depth` of them are under way while the
    one before is used, so that a reader does not wait for each round trip.
    """

    def __init__(self, size: int, read_range: Callable[[int, int], bytes], chunk: int, depth: int = 2) -> None:
        spans = ((start, min(start + chunk, size)) for start in range(0, size, chunk))
        self._pool = ThreadPoolExecutor(depth)
        self._waiting = deque(self._pool.submit(read_range, *span) for span in islice(spans, depth))
        self._more = (self._pool.submit(read_range, *span) for span in spans)
        self._here = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._here and self._waiting:
            self._here = memoryview(self._waiting.popleft().result())
            self._waiting.extend(islice(self._more, 1))
        count = min(len(buffer), len(self._here))
        buffer[:count], self._here = self._here[:count], self._here[count:]
        return count

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()


def etag_of(info: Mapping[str, Any]) -> str:
    """What changes when an object does: S3's ETag, or a local file's time and size."""
    return str(info.get("ETag") or (f"{int(info['mtime'] * 1e9)}-{info['size']}" if "mtime" in info else ""))


def read_range(fs: Any, name: str, start: int, end: int, etag: str) -> bytes:
    """The bytes from `start` to `end`. Raises ObjectChanged, or ShortRead."""
    if isinstance(fs, AsyncFileSystem):
        data = cast(bytes, sync(fs.loop, _get, fs, name, f"bytes={start}-{end - 1}", etag))
    else:
        # Exactly these bytes: fsspec reads ahead by itself, and what it keeps lives no longer than this call.
        data = cast(bytes, fs.cat_file(name, start=start, end=end, cache_type="none"))
        if etag and etag_of(fs.info(name)) != etag:
            raise ObjectChanged
    if len(data) != end - start:
        raise ShortRead(f"{len(data)} bytes came for {end - start} at {start}")
    return data


async def _get(fs: Any, name: str, span: str, etag: str) -> bytes:
    """One ranged GET that answers only for the object with this tag; s3fs itself cannot ask for that."""
    bucket, key, _ = fs.split_path(name)
    match = {"IfMatch": etag} if etag else {}
    try:
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, Range=span, **match)
        async with answer["Body"] as body:
            return cast(bytes, await body.read())
    except OSError as exc:
        if error_code(exc) in ("PreconditionFailed", "412", "InvalidRange"):
            raise ObjectChanged from exc
        raise
