"""Ranged reads of one version of an object, and file objects built on them."""

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
    """The object was replaced after it was listed."""


class RangeFile(io.RawIOBase):
    """A seekable file; each read is one ranged read. Errors pass through unchanged, so that a format reader can
    tell network errors from damaged data.
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
    """A sequential file that reads ahead: `depth` requests of `chunk` bytes are in flight while the current chunk is
    used, so that the reader does not wait for each round trip.
    """

    def __init__(self, size: int, read_range: Callable[[int, int], bytes], chunk: int, depth: int = 2) -> None:
        spans = ((start, min(start + chunk, size)) for start in range(0, size, chunk))
        self._pool = ThreadPoolExecutor(depth)
        self._in_flight = deque(self._pool.submit(read_range, *span) for span in islice(spans, depth))
        self._next = (self._pool.submit(read_range, *span) for span in spans)
        self._chunk = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._chunk and self._in_flight:
            self._chunk = memoryview(self._in_flight.popleft().result())
            self._in_flight.extend(islice(self._next, 1))
        count = min(len(buffer), len(self._chunk))
        buffer[:count], self._chunk = self._chunk[:count], self._chunk[count:]
        return count

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()


def etag_of(info: Mapping[str, Any]) -> str:
    """A tag that changes with the object: S3's ETag, or the modification time and size of a local file."""
    return str(info.get("ETag") or (f"{int(info['mtime'] * 1e9)}-{info['size']}" if "mtime" in info else ""))


def read_range(fs: Any, name: str, start: int, end: int, etag: str) -> bytes:
    """Read the bytes from `start` to `end`, exclusive. Raises ObjectChanged or ShortRead."""
    if isinstance(fs, AsyncFileSystem):
        data = cast(bytes, sync(fs.loop, _get, fs, name, f"bytes={start}-{end - 1}", etag))
    else:
        # No cache: fsspec would read ahead, and discard the result after this call.
        data = cast(bytes, fs.cat_file(name, start=start, end=end, cache_type="none"))
        if etag and etag_of(fs.info(name)) != etag:
            raise ObjectChanged
    if len(data) != end - start:
        raise ShortRead(f"received {len(data)} of {end - start} bytes at offset {start}")
    return data


async def _get(fs: Any, name: str, span: str, etag: str) -> bytes:
    """One ranged GET with If-Match, which s3fs does not offer. Raises ObjectChanged."""
    bucket, key, _ = fs.split_path(name)
    match = {"IfMatch": etag} if etag else {}
    try:
        response = await fs._call_s3("get_object", Bucket=bucket, Key=key, Range=span, **match)
        async with response["Body"] as body:
            return cast(bytes, await body.read())
    except OSError as exc:
        if error_code(exc) in ("PreconditionFailed", "412", "InvalidRange"):
            raise ObjectChanged from exc
        raise
