"""A path becomes a filesystem, once, here: local folders, s3://, and hf:// to read, with the same verbs.

Objects are put whole: readers see all of an object or none of it. Locally that is a temporary name, fsync and
rename; on S3 one PUT or one completed multipart upload. Foreign errors are translated here, with a hint.
"""

import contextlib
import errno
import fnmatch
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import fsspec
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ProfileNotFound

from jobs.config.run import StorageConfig
from jobs.errors import StorageError
from jobs.storage import atomic, hub, listing
from jobs.storage.paths import GLOB, absolute, expand_braces, is_local
from jobs.storage.ranges import ObjectChanged, RangeFile, ReadAheadFile, etag_of, read_range
from jobs.storage.retry import error_code, with_retries

CHUNK = 8 << 20  # bytes in one ranged read: COYO tars are 0.5 GB, and small unbuffered reads cost 20x the GETs
CLIENT_ATTEMPTS = 4  # of the S3 client itself, before this module's patience counts one
_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


@dataclass(frozen=True)
class Entry:
    """One object: its path as this module takes it, its size in bytes, and a tag that changes with its content."""

    path: str
    size: int
    etag: str = ""


@dataclass(frozen=True)
class Storage:
    """Reads and writes local and s3:// paths, reads hf:// ones. Picklable: each process makes its own connections."""

    config: StorageConfig = field(default_factory=StorageConfig)

    def pinned(self, path: str) -> str:
        """The path as it will mean the same in the next run: absolute, or at one commit of the hub."""
        return hub.pinned(path) if path.startswith(hub.SCHEME) else absolute(path)

    def find(self, path: str) -> list[Entry]:
        """Every object of a folder (recursively), a file, a glob or a brace pattern, sorted; one listing each.

        Empty when nothing is there. An object that braces name and that is missing raises StorageError.
        """
        with self._translate(path):
            if is_local(path) and os.path.exists(absolute(path)):
                return self.tree(path)  # a name that only looks like a pattern
            patterns = expand_braces(path)
            if patterns != [path]:
                found = self._named(patterns)
            else:
                found = self._glob(path) if GLOB.search(path) else self._tree(path)
            if not found and path.startswith("s3://"):
                self._check_bucket(path)
            return sorted(found, key=lambda entry: entry.path)

    def tree(self, path: str) -> list[Entry]:
        """Every object below a folder, or the file itself, sorted; the name is no pattern."""
        with self._translate(path):
            return sorted(self._tree(path), key=lambda entry: entry.path)

    def open(self, entry: Entry) -> RangeFile:
        """For random access, of the object as it was listed: each read is one ranged request."""
        return RangeFile(entry.size, lambda start, end: self.read_range(entry, start, end))

    def stream(self, entry: Entry) -> io.BufferedReader:
        """From the first byte to the last, in requests of CHUNK bytes: a lost connection costs one, never the place."""
        return io.BufferedReader(
            ReadAheadFile(entry.size, lambda start, end: self.read_range(entry, start, end), CHUNK)
        )

    def read(self, path: str) -> bytes:
        """A whole object's bytes."""
        with self._translate(path):
            fs, name = self._fs(path)
            return cast(bytes, with_retries(lambda: fs.cat_file(name)))

    def read_range(self, entry: Entry, start: int, end: int) -> bytes:
        """Exactly the bytes from `start` to `end`, of the object as it was listed.

        Raises StorageError when the object was replaced since: half of one and half of another is no shard.
        """
        with self._translate(entry.path):
            fs, name = self._fs(entry.path)
            return with_retries(lambda: read_range(fs, name, start, end, entry.etag))

    def put(self, path: str, data: bytes | memoryview) -> None:
        """Write one whole object, visible only when complete; replaces what is there."""
        with self._translate(path):
            fs, name = self._fs(_writable(path))
            if is_local(path):
                with atomic.file(name) as file:
                    file.write(data)
            else:
                with_retries(lambda: fs.pipe_file(name, bytes(data)))

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        """A file to write from its first byte to its last, for objects too big to hold; replaces what is there.

        Visible only when complete: nothing is there when the block raises.
        """
        with self._translate(path):
            fs, name = self._fs(_writable(path))
            with atomic.file(name) if is_local(path) else atomic.upload(fs, name) as file:
                yield file

    def put_new(self, path: str, data: bytes) -> bool:
        """Put, unless something is there already; whether it was put. Of several callers at once one succeeds."""
        with self._translate(path):
            fs, name = self._fs(path)
            try:
                if is_local(path):
                    with atomic.file(name, reveal=atomic.create_exclusive) as file:
                        file.write(data)
                else:
                    with_retries(lambda: fs.pipe_file(name, data, mode="create"))
            except OSError as exc:
                if isinstance(exc, FileExistsError) or error_code(exc) in _TAKEN:
                    return False
                raise
            return True

    def date_of(self, path: str) -> str:
        """The time by an S3 store's own clock, as HTTP writes it."""
        with self._translate(path):
            fs, name = self._fs(path)
            answer = fs.call_s3("list_objects_v2", Bucket=name.partition("/")[0], MaxKeys=1)
            return str(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    def exists(self, path: str) -> bool:
        with self._translate(path):
            fs, name = self._fs(path)
            fs.invalidate_cache()
            return bool(fs.exists(name))

    def delete(self, path: str) -> None:
        """What is gone already, as another run may be doing the same, is deleted."""
        with self._translate(path), contextlib.suppress(FileNotFoundError):
            fs, name = self._fs(path)
            fs.rm_file(name)

    def abort_uploads(self, path: str) -> int:
        """End multipart uploads below a folder that nobody will finish: invisible to readers, but stored and billed."""
        if is_local(path):
            return 0
        with self._translate(path):
            fs, name = self._fs(path)
            bucket, prefix, _ = fs.split_path(name)
            found = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/").get("Uploads", [])
            for upload in found:
                fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
            return len(found)

    def fetch_folder(self, path: str, into: str) -> None:
        """Copy a folder of objects to a local folder."""
        for entry in self.find(path):
            target = os.path.join(into, os.path.relpath(entry.path, path.rstrip("/")))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with self._translate(path):
                fs, name = self._fs(entry.path)
                fs.get_file(name, target)

    def _fs(self, path: str) -> tuple[Any, str]:
        if is_local(path):
            return fsspec.filesystem("file"), absolute(path)
        if path.startswith(hub.SCHEME):
            return hub.filesystem(), path.removeprefix(hub.SCHEME)
        if not path.startswith("s3://"):
            raise StorageError(f"{path}: not a path this job can reach", "local paths, s3:// and hf:// are")
        if not path.removeprefix("s3://").partition("/")[0]:
            raise StorageError(f"{path}: names no bucket", "s3:// paths are s3://bucket or s3://bucket/folder")
        client = {"region_name": self.config.region} if self.config.region else {}
        fs = fsspec.filesystem(
            "s3",
            anon=self.config.anonymous,
            endpoint_url=self.config.endpoint_url,
            client_kwargs=client,
            config_kwargs={
                "connect_timeout": 10,
                "read_timeout": 60,
                "retries": {"mode": "standard", "max_attempts": CLIENT_ATTEMPTS},
            },
            default_block_size=CHUNK,
            use_listings_cache=False,
        )
        return fs, path.removeprefix("s3://")

    def _tree(self, path: str) -> list[Entry]:
        fs, name = self._fs(path)
        try:
            if is_local(path) and os.path.isdir(name):
                return self._entries(path, listing.files(name, fs.info))
            return self._entries(path, fs.find(name, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _glob(self, pattern: str) -> list[Entry]:
        fs, name = self._fs(pattern)
        return self._entries(pattern, fs.glob(name, detail=True))

    def _named(self, patterns: list[str]) -> list[Entry]:
        """Files that braces spell out: one listing of each folder, then matching."""
        found: dict[str, Entry] = {}
        for folder in sorted({pattern.rpartition("/")[0] for pattern in patterns}):
            fs, name = self._fs(folder or ".")
            here = self._entries(folder or ".", {info["name"]: info for info in fs.ls(name, detail=True)})
            for pattern in (pattern for pattern in patterns if pattern.rpartition("/")[0] == folder):
                wanted = absolute(pattern)
                matched = [entry for entry in here if fnmatch.fnmatchcase(entry.path, wanted)]
                if not matched:
                    raise StorageError(f"{pattern}: named by the braces and not there", "check the range")
                found |= {entry.path: entry for entry in matched}
        return list(found.values())

    def _check_bucket(self, path: str) -> None:
        """s3fs lists a missing bucket as an empty one."""
        fs, name = self._fs(path)
        bucket = name.partition("/")[0]
        if not fs.exists(bucket):
            raise StorageError(
                f"{path}: there is no bucket {bucket!r}", "check the bucket's name and storage.endpoint_url"
            )

    def _entries(self, path: str, infos: dict[str, dict[str, Any]]) -> list[Entry]:
        fs, _ = self._fs(path)
        scheme = "" if is_local(path) else path[: path.index("//") + 2]
        found = []
        for name, info in infos.items():
            if info.get("islink") and not os.path.isdir(name):
                info = listing.behind(name, fs.info)  # listings describe the link, not its file
            if info["type"] == "file":
                found.append(Entry(scheme + name, info["size"] or 0, etag_of(info)))
        return found

    @contextlib.contextmanager
    def _translate(self, path: str) -> Iterator[None]:
        """Foreign errors into StorageError, in this one place."""
        try:
            with hub.complaints(path) if path.startswith(hub.SCHEME) else contextlib.nullcontext():
                yield
        except StorageError:
            raise
        except NoCredentialsError as exc:
            hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile, or storage.anonymous: true"
            raise StorageError(f"{path}: no credentials for S3", hint) from exc
        except ObjectChanged as exc:
            raise StorageError(f"{path}: was replaced while it was read", "run the same command again") from exc
        except PermissionError as exc:
            raise StorageError(
                f"{path}: access denied ({exc.__cause__ or exc})", "check the credentials and the bucket's policy"
            ) from exc
        except FileNotFoundError as exc:
            raise StorageError(f"{path}: not there ({exc})", "check the bucket's name and the path") from exc
        except ProfileNotFound as exc:
            raise StorageError(f"{path}: {exc}", "check AWS_PROFILE") from exc
        except (BotoCoreError, ClientError) as exc:
            where = self.config.endpoint_url or "the S3 endpoint"
            raise StorageError(
                f"{path}: {where} cannot be used: {exc}", "check storage.endpoint_url and the network"
            ) from exc
        except OSError as exc:
            full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
            raise StorageError(f"{path}: {exc}", "make room; the same command goes on" if full else "") from exc


def _writable(path: str) -> str:
    if path.startswith(hub.SCHEME):
        raise StorageError(f"{path}: the hub is read only here", "write to a folder or s3://, and upload that")
    return path
