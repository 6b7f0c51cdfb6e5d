"""Stream the samples of a tar, and detect where it is damaged."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from jobs.sources import Damaged
from jobs.storage import Entry, Storage

_GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass
class Sample:
    """The members of one key by suffix, in lower case; `damage` tells why some may be missing."""

    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    damage: str | None = None


def read_samples(storage: Storage, entry: Entry) -> Iterator[Sample]:
    """Yield the samples of a tar. If the tar is damaged, mark its last readable sample, then raise Damaged."""
    sample: Sample | None = None
    try:
        for name, data in _members(storage, entry):
            key, suffix = _split(name)
            if key and (sample is None or sample.key != key or suffix in sample.members):
                if sample is not None:
                    yield sample
                sample = Sample(key)
            if data is None:
                raise Damaged(f"the tar ends inside {name}")
            if key and sample is not None:
                sample.members[suffix] = data
    except Damaged as exc:
        if sample is not None:  # the next member may have belonged to it
            sample.damage = str(exc)
            yield sample
        raise
    if sample is not None:
        yield sample


class _Header(tarfile.TarInfo):
    """Raises an error for a damaged header, which tarfile skips. After a tar's end mark anything may follow: nothing,
    another tar (`cat a.tar b.tar`), or other bytes.
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_Header":
        try:
            header = super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            tar.ended = True  # type: ignore[attr-defined]
            raise
        except tarfile.InvalidHeaderError as exc:  # type: ignore[attr-defined]
            if _ended(tar):
                raise tarfile.EmptyHeaderError from exc  # type: ignore[attr-defined]
            raise tarfile.SubsequentHeaderError(f"no end mark: {exc}") from exc  # type: ignore[attr-defined]
        tar.ended = False  # type: ignore[attr-defined]
        return header


def _ended(tar: tarfile.TarFile) -> bool:
    return getattr(tar, "ended", False)


def _decompressed(stream: io.BufferedReader) -> Any:
    """A stream of the tar's bytes, decompressed if they are gzip. Unlike tarfile, it reads all members of a gzip file
    (bgzip writes many), and returns the readable bytes of a truncated one before it raises.
    """
    if stream.peek(2)[:2] != b"\x1f\x8b":
        return stream
    return SimpleNamespace(read=gzip.GzipFile(fileobj=stream).read1)


def _members(storage: Storage, entry: Entry) -> Iterator[tuple[str, bytes | None]]:
    """Yield (name, bytes) of each file; bytes are None if the tar ends inside it. Raises Damaged."""
    try:
        # errors="replace": by default, a name that is not UTF-8 gets surrogates, which Arrow and terminals refuse.
        with (
            storage.stream(entry) as stream,
            tarfile.open(
                fileobj=_decompressed(stream),
                mode="r|*",
                tarinfo=_Header,
                encoding="utf-8",
                errors="replace",
                ignore_zeros=True,
            ) as tar,
        ):
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
                if not member.isfile():
                    continue
                try:
                    file = tar.extractfile(member)
                    data = file.read() if file else b""
                except (tarfile.ReadError, *_GZIP_ERRORS):
                    yield member.name, None
                    return
                yield member.name, data if len(data) == member.size else None
            if not _ended(tar):
                raise Damaged("the tar has no end mark")
    except (tarfile.TarError, *_GZIP_ERRORS) as exc:
        raise Damaged(f"not a readable tar ({exc})") from exc


def _split(name: str) -> tuple[str, str]:
    """(key, suffix) of a member, ("", "") if it belongs to no sample."""
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return (folder + slash + stem, suffix.lower()) if stem and dot else ("", "")
