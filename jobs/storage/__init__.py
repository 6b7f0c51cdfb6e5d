"""One interface to local folders, s3:// and, read-only, hf://.

Writes are atomic: readers see a complete object or none. Locally: temporary file, fsync, rename; on S3: one PUT or one
completed multipart upload. Errors of the backends become StorageError with a hint.
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
from jobs.storage.paths import GLOB_CHARACTERS, absolute, expand_braces, is_local
from jobs.storage.ranges import ObjectChanged, RangeFile, ReadAheadFile, etag_of, read_range
from jobs.storage.retry import error_code, with_retries

CHUNK = 8 << 20  # bytes in one ranged read: COYO tars are 0.5 GB, and small unbuffered reads cost 20x the GETs
CLIENT_ATTEMPTS = 4  # by the S3 client itself, within each attempt of with_retries
_EXISTS_CODES = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


@dataclass(frozen=True)
class Entry:
    """One listed object: its path with scheme, its size in bytes, and a tag that changes with its content."""

    path: str
    size: int
    etag: str = ""


@dataclass(frozen=True)
class Storage:
    """Reads and writes local and s3:// paths; reads hf:// paths. Picklable: each process opens its own connections.

    Every method raises StorageError if the path cannot be reached.
    """

    config: StorageConfig = field(default_factory=StorageConfig)

    def pin(self, path: str) -> str:
        """Return a path that means the same in the next run: absolute, or at one commit of the hub."""
        return hub.pin_to_commit(path) if path.startswith(hub.SCHEME) else absolute(path)

    def find(self, path: str) -> list[Entry]:
        """List the objects of a folder (recursively), a file, a glob or a brace pattern, sorted by path.

        Returns [] if nothing matches. Raises StorageError if an object that braces name is missing.
        """
        with self._translate_errors(path):
            if is_local(path) and os.path.exists(absolute(path)):
                return self.list_files(path)  # an existing name with pattern characters
            patterns = expand_braces(path)
            if patterns != [path]:
                found = self._find_each(patterns)
            else:
                found = self._glob(path) if GLOB_CHARACTERS.search(path) else self._tree(path)
            if not found and path.startswith("s3://"):
                self._check_bucket(path)
            return sorted(found, key=lambda entry: entry.path)

    def list_files(self, path: str) -> list[Entry]:
        """List the objects below a folder, or the file itself, sorted by path. The path is not a pattern."""
        with self._translate_errors(path):
            return sorted(self._tree(path), key=lambda entry: entry.path)

    def open(self, entry: Entry) -> RangeFile:
        """Open the listed object for random access; each read is one ranged request."""
        return RangeFile(entry.size, lambda start, end: self.read_range(entry, start, end))

    def stream(self, entry: Entry) -> io.BufferedReader:
        """Open the listed object for sequential reading, in requests of CHUNK bytes that are retried one by one."""
        return io.BufferedReader(
            ReadAheadFile(entry.size, lambda start, end: self.read_range(entry, start, end), CHUNK)
        )

    def read(self, path: str) -> bytes:
        """Read a whole object."""
        with self._translate_errors(path):
            fs, name = self._filesystem(path)
            return cast(bytes, with_retries(lambda: fs.cat_file(name)))

    def read_range(self, entry: Entry, start: int, end: int) -> bytes:
        """Read the bytes from `start` to `end`, exclusive, of the listed object.

        Raises StorageError if the object was replaced since the listing, so that two versions are never mixed.
        """
        with self._translate_errors(entry.path):
            fs, name = self._filesystem(entry.path)
            return with_retries(lambda: read_range(fs, name, start, end, entry.etag))

    def put(self, path: str, data: bytes | memoryview) -> None:
        """Write an object atomically; replaces an existing one."""
        with self._translate_errors(path):
            fs, name = self._filesystem(_check_writable(path))
            if is_local(path):
                with atomic.write_file(name) as file:
                    file.write(data)
            else:
                with_retries(lambda: fs.pipe_file(name, bytes(data)))

    @contextlib.contextmanager
    def open_for_writing(self, path: str) -> Iterator[BinaryIO]:
        """Open a file for sequential writing, for objects too big for memory; replaces an existing one.

        The object appears when the block ends; if the block raises, nothing is written.
        """
        with self._translate_errors(path):
            fs, name = self._filesystem(_check_writable(path))
            with atomic.write_file(name) if is_local(path) else atomic.upload(fs, name) as file:
                yield file

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create the object if it does not exist, atomically. Returns whether this call created it."""
        with self._translate_errors(path):
            fs, name = self._filesystem(path)
            try:
                if is_local(path):
                    with atomic.write_file(name, reveal=atomic.create_exclusive) as file:
                        file.write(data)
                else:
                    with_retries(lambda: fs.pipe_file(name, data, mode="create"))
            except OSError as exc:
                if isinstance(exc, FileExistsError) or error_code(exc) in _EXISTS_CODES:
                    return False
                raise
            return True

    def server_date(self, path: str) -> str:
        """Current time of an S3 store, as the HTTP Date header of a response."""
        with self._translate_errors(path):
            fs, name = self._filesystem(path)
            answer = fs.call_s3("list_objects_v2", Bucket=name.partition("/")[0], MaxKeys=1)
            return str(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    def exists(self, path: str) -> bool:
        """Whether there is an object or a folder at this path."""
        with self._translate_errors(path):
            fs, name = self._filesystem(path)
            fs.invalidate_cache()
            return bool(fs.exists(name))

    def delete(self, path: str) -> None:
        """Delete an object. A missing object is no error: another run may delete it at the same time."""
        with self._translate_errors(path), contextlib.suppress(FileNotFoundError):
            fs, name = self._filesystem(path)
            fs.rm_file(name)

    def abort_uploads(self, path: str) -> int:
        """Abort unfinished multipart uploads below a folder, which are invisible but billed. Returns their number."""
        if is_local(path):
            return 0
        with self._translate_errors(path):
            fs, name = self._filesystem(path)
            bucket, prefix, _ = fs.split_path(name)
            uploads = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/").get("Uploads", [])
            for upload in uploads:
                fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
            return len(uploads)

    def download_folder(self, path: str, target: str) -> None:
        """Download all objects below a folder to a local folder."""
        for entry in self.find(path):
            file = os.path.join(target, os.path.relpath(entry.path, path.rstrip("/")))
            os.makedirs(os.path.dirname(file), exist_ok=True)
            with self._translate_errors(path):
                fs, name = self._filesystem(entry.path)
                fs.get_file(name, file)

    def _filesystem(self, path: str) -> tuple[Any, str]:
        if is_local(path):
            return fsspec.filesystem("file"), absolute(path)
        if path.startswith(hub.SCHEME):
            return hub.filesystem(), path.removeprefix(hub.SCHEME)
        if not path.startswith("s3://"):
            raise StorageError(f"{path}: not a supported path", "use a local path, s3:// or hf://")
        if not path.removeprefix("s3://").partition("/")[0]:
            raise StorageError(f"{path}: no bucket in the path", "use s3://bucket or s3://bucket/folder")
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
        fs, name = self._filesystem(path)
        try:
            if is_local(path) and os.path.isdir(name):
                return self._entries(path, listing.list_files(name, fs.info))
            return self._entries(path, fs.find(name, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _glob(self, pattern: str) -> list[Entry]:
        fs, name = self._filesystem(pattern)
        return self._entries(pattern, fs.glob(name, detail=True))

    def _find_each(self, patterns: list[str]) -> list[Entry]:
        """The objects of expanded braces: list each folder once, then match. Raises StorageError for a missing one."""
        found: dict[str, Entry] = {}
        for folder in sorted({pattern.rpartition("/")[0] for pattern in patterns}):
            fs, name = self._filesystem(folder or ".")
            listed = self._entries(folder or ".", {info["name"]: info for info in fs.ls(name, detail=True)})
            for pattern in (pattern for pattern in patterns if pattern.rpartition("/")[0] == folder):
                full_pattern = absolute(pattern)
                matched = [entry for entry in listed if fnmatch.fnmatchcase(entry.path, full_pattern)]
                if not matched:
                    raise StorageError(f"{pattern}: not found, but named by the braces", "check the range")
                found |= {entry.path: entry for entry in matched}
        return list(found.values())

    def _check_bucket(self, path: str) -> None:
        """Raises StorageError for a missing bucket, which s3fs lists as empty."""
        fs, name = self._filesystem(path)
        bucket = name.partition("/")[0]
        if not fs.exists(bucket):
            raise StorageError(
                f"{path}: there is no bucket {bucket!r}", "check the bucket's name and storage.endpoint_url"
            )

    def _entries(self, path: str, infos: dict[str, dict[str, Any]]) -> list[Entry]:
        fs, _ = self._filesystem(path)
        scheme = "" if is_local(path) else path[: path.index("//") + 2]
        found = []
        for name, info in infos.items():
            if info.get("islink") and not os.path.isdir(name):
                info = listing.follow_link(name, fs.info)  # the listing describes the link, not its target
            if info["type"] == "file":
                found.append(Entry(scheme + name, info["size"] or 0, etag_of(info)))
        return found

    @contextlib.contextmanager
    def _translate_errors(self, path: str) -> Iterator[None]:
        """Turn the errors of all backends into StorageError."""
        try:
            with hub.translate_errors(path) if path.startswith(hub.SCHEME) else contextlib.nullcontext():
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
            raise StorageError(f"{path}: not found ({exc})", "check the bucket's name and the path") from exc
        except ProfileNotFound as exc:
            raise StorageError(f"{path}: {exc}", "check AWS_PROFILE") from exc
        except (BotoCoreError, ClientError) as exc:
            where = self.config.endpoint_url or "the S3 endpoint"
            raise StorageError(
                f"{path}: {where} cannot be used: {exc}", "check storage.endpoint_url and the network"
            ) from exc
        except OSError as exc:
            full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
            raise StorageError(
                f"{path}: {exc}", "free some space, then run the same command again" if full else ""
            ) from exc


def _check_writable(path: str) -> str:
    """Return the path. Raises StorageError for hf://."""
    if path.startswith(hub.SCHEME):
        raise StorageError(f"{path}: the hub is read only", "write to a folder or s3://, and upload the result")
    return path
