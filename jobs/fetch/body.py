"""A body, read to its end or to its limit; a Content-Length is believed only when it says too much."""

import asyncio
import zlib
from collections.abc import Iterator
from contextlib import AsyncExitStack

import aiohttp

from jobs.errors import Reason, Reject
from jobs.fetch.failures import RequestFailed
from jobs.fetch.memory import SMALL, MemoryBudget

_PIECE = 64 << 10  # bytes that are inflated at once: a thousand times as much may come out of what comes in
_EITHER = 32 + zlib.MAX_WBITS  # gzip's and zlib's form


async def read(answer: aiohttp.ClientResponse, limit: int, memory: MemoryBudget, deadline: asyncio.Timeout) -> bytes:
    """At most `limit` bytes, sent and inflated. Raises Reject (too_large, bad_answer), and what aiohttp does."""
    announced = answer.content_length
    if announced is not None and announced > limit:
        raise Reject(Reason.TOO_LARGE, f"{announced:,} bytes are announced, the limit is {limit:,}")
    encoding = _Encoding(answer.headers.get("Content-Encoding", ""))
    most = limit if announced is None or encoding.inflates else announced
    pieces: list[bytes] = []
    sent = size = 0
    async with AsyncExitStack() as held:
        async for chunk in answer.content.iter_any():
            sent += len(chunk)
            for piece in encoding.undone(chunk):
                pieces.append(piece)
                if size <= SMALL < size + len(piece):
                    await held.enter_async_context(memory.reserved(most, deadline))
                size += len(piece)
                if max(sent, size) > limit:
                    raise Reject(Reason.TOO_LARGE, f"more than {limit:,} bytes")
        encoding.finish()
        return b"".join(pieces)


class _Encoding:
    """What a server did to the body although it was asked not to. Gzip can be undone; the rest is refused."""

    def __init__(self, name: str) -> None:
        self._inflate = None
        if name.strip().lower() in ("gzip", "x-gzip", "deflate"):
            self._inflate = zlib.decompressobj(_EITHER)
        elif name.strip().lower() not in ("", "identity"):
            raise RequestFailed(Reason.BAD_ANSWER, f"Content-Encoding {name[:50]!r}, which was not asked for")

    @property
    def inflates(self) -> bool:
        return self._inflate is not None

    def undone(self, chunk: bytes) -> Iterator[bytes]:
        if self._inflate is None:
            yield chunk
            return
        while chunk:
            try:
                piece = self._inflate.decompress(chunk, _PIECE)
            except zlib.error as exc:
                raise RequestFailed(
                    Reason.BAD_ANSWER, f"the body is not what its Content-Encoding says: {exc}"
                ) from None
            chunk = self._inflate.unconsumed_tail
            yield piece

    def finish(self) -> None:
        if self._inflate is not None and not self._inflate.eof:
            raise RequestFailed(Reason.BAD_ANSWER, "the compressed body ends early")
