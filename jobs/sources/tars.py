"""Tars, from their first byte to their last: samples, and where a tar is damaged."""

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

_PACKED_BADLY = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass
class Sample:
    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    damage: str | None = None


def read_samples(storage: Storage, entry: Entry) -> Iterator[Sample]:
    """Every sample of a tar. Raises Damaged after the last one that could be found, which then is damaged too."""
    sample: Sample | None = None
    try:
        for name, data in _members(storage, entry):
            key, suffix = _split(name)
            if key and (sample is None or sample.key != key or suffix in sample.members):
                if sample is not None:
                    yield sample
                sample = Sample(key)
            if data is None:
                raise Damaged(f"the tar is cut inside {name}")
            if key and sample is not None:
                sample.members[suffix] = data
    except Damaged as exc:
        if sample is not None:  # its text may have been the next member
            sample.damage = str(exc)
            yield sample
        raise
    if sample is not None:
        yield sample


class _Header(tarfile.TarInfo):
    """Tells a damaged header, which tarfile itself passes over, from what may lie behind a tar's end: nothing, the next
    tar, as `cat a.tar b.tar` leaves it, or anything.
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


def _plain(stream: io.BufferedReader) -> Any:
    """What to read a tar from. Of gzip every part: tarfile itself ends with the first of those that bgzip, say, makes
    of a file; and what is there, before it raises that the rest is not.
    """
    if stream.peek(2)[:2] != b"\x1f\x8b":
        return stream
    return SimpleNamespace(read=gzip.GzipFile(fileobj=stream).read1)


def _members(storage: Storage, entry: Entry) -> Iterator[tuple[str, bytes | None]]:
    """(name, bytes) of every file; bytes are None where the tar ends inside the member."""
    try:
        # By default a name that is not UTF-8 comes with surrogates, which neither Arrow nor a terminal takes.
        with (
            storage.stream(entry) as stream,
            tarfile.open(
                fileobj=_plain(stream),
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
                except (tarfile.ReadError, *_PACKED_BADLY):
                    yield member.name, None
                    return
                yield member.name, data if len(data) == member.size else None
            if not _ended(tar):
                raise Damaged("the tar has no end mark")
    except (tarfile.TarError, *_PACKED_BADLY) as exc:
        raise Damaged(f"not a readable tar ({exc})") from exc


def _split(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return (folder + slash + stem, suffix.lower()) if stem and dot else ("", "")
