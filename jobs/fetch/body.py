"""Read a response body within a size limit. Content-Length alone can only reject a body, never accept one."""

import asyncio
import zlib
from collections.abc import Iterator
from contextlib import AsyncExitStack

import aiohttp

from jobs.errors import Reason, Reject
from jobs.fetch.failures import RequestFailed
from jobs.fetch.memory import SMALL, MemoryBudget

_PIECE = 64 << 10  # bytes decompressed per step, since compressed data can expand a thousandfold
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


async def read(response: aiohttp.ClientResponse, limit: int, memory: MemoryBudget, deadline: asyncio.Timeout) -> bytes:
    """Read at most `limit` bytes, received or decompressed. Raises Reject (too_large, bad_answer), aiohttp's errors."""
    announced = response.content_length
    if announced is not None and announced > limit:
        raise Reject(Reason.TOO_LARGE, f"Content-Length is {announced:,} bytes, the limit is {limit:,}")
    encoding = _Encoding(response.headers.get("Content-Encoding", ""))
    most = limit if announced is None or encoding.compressed else announced
    pieces: list[bytes] = []
    received = size = 0
    async with AsyncExitStack() as stack:
        async for chunk in response.content.iter_any():
            received += len(chunk)
            for piece in encoding.decode(chunk):
                pieces.append(piece)
                if size <= SMALL < size + len(piece):
                    await stack.enter_async_context(memory.reserve(most, deadline))
                size += len(piece)
                if max(received, size) > limit:
                    raise Reject(Reason.TOO_LARGE, f"more than {limit:,} bytes")
        encoding.finish()
        return b"".join(pieces)


class _Encoding:
    """The Content-Encoding, which was not requested: gzip and deflate are decoded, others rejected (bad_answer)."""

    def __init__(self, name: str) -> None:
        self._decompressor = None
        if name.strip().lower() in ("gzip", "x-gzip", "deflate"):
            self._decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
        elif name.strip().lower() not in ("", "identity"):
            raise RequestFailed(Reason.BAD_ANSWER, f"Content-Encoding {name[:50]!r} was not requested")

    @property
    def compressed(self) -> bool:
        return self._decompressor is not None

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        if self._decompressor is None:
            yield chunk
            return
        while chunk:
            try:
                piece = self._decompressor.decompress(chunk, _PIECE)
            except zlib.error as exc:
                raise RequestFailed(Reason.BAD_ANSWER, f"the body does not match its Content-Encoding: {exc}") from None
            chunk = self._decompressor.unconsumed_tail
            yield piece

    def finish(self) -> None:
        if self._decompressor is not None and not self._decompressor.eof:
            raise RequestFailed(Reason.BAD_ANSWER, "the compressed body ends early")
