"""The same operations work locally and on S3; an unreachable path is an error with a hint."""

import gc
import pickle
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.config import StorageConfig
from jobs.errors import StorageError
from jobs.storage import CHUNK, Storage
from jobs.storage.paths import absolute, base_folder, expand_braces, join_path

TREE = ["a/0.tar", "a/1.tar", "a/deep/2.tar", "a/notes.txt", "ab/0.tar", "b/0.tar"]


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new folder, on either kind of storage."""
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("bucket"))


@pytest.fixture
def tree(place: str) -> str:
    for name in TREE:
        Storage().put(join_path(place, name), name.encode())
    return place


def names(place: str, pattern: str) -> list[str]:
    return [entry.path.removeprefix(place + "/") for entry in Storage().find(f"{place}/{pattern}")]


def test_what_was_put_is_there_until_it_is_deleted(place: str) -> None:
    path = join_path(place, "new", "folder", "x")
    assert not Storage().exists(path)
    Storage().put(path, b"first")
    Storage().put(path, memoryview(b"second"))
    assert Storage().read(path) == b"second"
    Storage().delete(path)
    assert not Storage().exists(path)


@pytest.mark.parametrize("size", [0, 5, 2 * CHUNK + 5])
def test_an_object_that_is_written_in_pieces_is_there_when_it_is_whole(place: str, size: int) -> None:
    path, pieces = join_path(place, "new", "x"), [bytes([number]) * (size // 5) for number in range(5)]
    with Storage().open_for_writing(path) as file:
        for piece in pieces:
            file.write(piece)
            assert not Storage().exists(path)
    assert Storage().read(path) == b"".join(pieces)


@pytest.mark.parametrize("size", [5, CHUNK + 1])
def test_an_object_whose_writer_fails_is_not_there_and_the_one_before_stays(place: str, size: int) -> None:
    """A resumed join would count a half-written file as done."""

    def fail(name: str) -> None:
        with Storage().open_for_writing(join_path(place, "deep", name)) as file:
            file.write(b"x" * size)
            raise ZeroDivisionError

    Storage().put(join_path(place, "deep", "old"), b"before")
    for name in ("new", "old"):
        with pytest.raises(ZeroDivisionError):
            fail(name)
    gc.collect()
    assert names(place, "deep") == ["deep/old"]
    assert Storage().read(join_path(place, "deep", "old")) == b"before"
    assert Storage().abort_uploads(join_path(place, "deep")) == 0


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a", ["a/0.tar", "a/1.tar", "a/deep/2.tar", "a/notes.txt"]),
        ("a/", ["a/0.tar", "a/1.tar", "a/deep/2.tar", "a/notes.txt"]),
        ("a/1.tar", ["a/1.tar"]),
        ("a/*.tar", ["a/0.tar", "a/1.tar"]),
        ("a/**/*.tar", ["a/0.tar", "a/1.tar", "a/deep/2.tar"]),
        ("*/[0-9].tar", ["a/0.tar", "a/1.tar", "ab/0.tar", "b/0.tar"]),
        ("a/{0..1}.tar", ["a/0.tar", "a/1.tar"]),
        ("{a,b}/0.tar", ["a/0.tar", "b/0.tar"]),
        ("{a,b}/*.tar", ["a/0.tar", "a/1.tar", "b/0.tar"]),
        ("missing", []),
        ("a/*.parquet", []),
    ],
)
def test_find_takes_folders_files_globs_and_braces(tree: str, pattern: str, found: list[str]) -> None:
    assert names(tree, pattern) == found


def test_find_takes_braces_that_name_one_file(tree: str) -> None:
    """A corpus of one shard, or the last piece of a split job."""
    assert names(tree, "a/{0..0}.tar") == ["a/0.tar"]
    with pytest.raises(StorageError, match=r"a/9\.tar: not found, but named by the braces"):
        Storage().find(join_path(tree, "a/{9..9}.tar"))


def test_an_object_that_braces_name_and_that_is_missing_is_an_error(tree: str) -> None:
    """A typo in a range would silently leave out shards."""
    with pytest.raises(StorageError, match=r"a/2\.tar: not found, but named by the braces"):
        Storage().find(join_path(tree, "a/{0..2}.tar"))


@pytest.mark.parametrize("pattern", ["links", "links/*.tar", "links/{0,1}.tar"])
def test_links_to_files_are_files(tmp_path: Path, pattern: str) -> None:
    """The Hugging Face cache is nothing but links, and data folders on clusters often are."""
    (tmp_path / "links").mkdir()
    for name in ("0.tar", "1.tar"):
        (tmp_path / name).write_bytes(b"x")
        (tmp_path / "links" / name).symlink_to(tmp_path / name)
    assert names(str(tmp_path), pattern) == ["links/0.tar", "links/1.tar"]
    found = Storage().find(f"{tmp_path}/{pattern}")
    assert [(entry.size, Storage().read_range(entry, 0, 1)) for entry in found] == [(1, b"x")] * 2


def test_links_to_folders_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "folder")
    assert names(str(tmp_path), "") == []


def test_an_object_that_was_replaced_since_it_was_listed_is_not_read(place: str) -> None:
    """Two versions of a shard must not be mixed."""
    Storage().put(join_path(place, "x"), b"older")
    (entry,) = Storage().find(join_path(place, "x"))
    assert Storage().read_range(entry, 1, 3) == b"ld"
    Storage().put(join_path(place, "x"), b"newer")
    with pytest.raises(StorageError, match="x: was replaced while it was read"):
        Storage().read_range(entry, 1, 3)


def test_of_several_that_put_a_new_object_one_does(place: str) -> None:
    path = join_path(place, "new", "x")
    with ThreadPoolExecutor(8) as pool:
        put = list(pool.map(lambda n: Storage().put_if_absent(path, b"%d" % n), range(8)))
    assert put.count(True) == 1
    assert Storage().read(path) == b"%d" % put.index(True)


def test_a_new_object_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    """An empty lease file, left by a run that was killed in the middle of a write, would stop all others."""
    path = tmp_path / "x"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(StorageError, match="File too large"):
            Storage().put_if_absent(str(path), bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    assert [Storage().put_if_absent(str(path), data) for data in (b"a", b"b")] == [True, False]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"a")]


def test_a_stream_gives_every_byte_of_an_object_bigger_than_one_request(place: str) -> None:
    data = bytes(range(256)) * ((CHUNK + 9999) // 256)
    Storage().put(join_path(place, "big"), data)
    (entry,) = Storage().find(join_path(place, "big"))
    with Storage().stream(entry) as stream:
        assert b"".join(iter(lambda: stream.read(3_000_000), b"")) == data


def test_an_open_object_reads_at_any_place(tree: str) -> None:
    (entry,) = Storage().find(join_path(tree, "a/notes.txt"))
    assert entry.size == 11
    file = Storage().open(entry)
    assert (file.seek(-3, 2), file.read(), file.read()) == (8, b"txt", b"")
    assert (file.seek(2), file.read(5), file.tell()) == (2, b"notes", 7)


def test_a_folder_is_fetched_with_its_subfolders(tree: str, tmp_path: Path) -> None:
    Storage().download_folder(join_path(tree, "a"), str(tmp_path / "copy"))
    assert (tmp_path / "copy/deep/2.tar").read_bytes() == b"a/deep/2.tar"
    assert len(list((tmp_path / "copy").rglob("*.*"))) == 4


def test_a_put_that_fails_half_way_leaves_the_old_object_and_no_other_name(tmp_path: Path) -> None:
    """A full disk in the middle of a write."""
    Storage().put(str(tmp_path / "x"), b"older")
    Storage().put(str(tmp_path / "x"), b"old")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(StorageError, match="File too large"):
            Storage().put(str(tmp_path / "x"), b"new" * 50_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"old")]


def test_a_reader_never_sees_half_an_object(tmp_path: Path) -> None:
    versions = [bytes([n]) * 300_000 for n in range(20)]
    path = str(tmp_path / "x")
    Storage().put(path, versions[0])

    def write() -> None:
        for data in versions:
            Storage().put(path, data)

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while writer.is_alive():
        seen.append(Storage().read(path))
    writer.join()
    assert [data for data in seen if data not in versions] == []


@pytest.mark.parametrize("path", ["s3://", "s3:///x", join_path("s3://", "x"), "s3:/bucket/x", "s3://{a,b}"])
def test_an_s3_path_without_a_bucket_is_refused(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything a key can see would be the source, or a folder named s3: the output."""
    monkeypatch.chdir(tmp_path)
    for verb in (Storage().find, Storage().read, lambda path: Storage().put(path, b"")):
        with pytest.raises(StorageError):
            verb(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["gs://bucket/x", "https://host/x", "hdfs://x"])
def test_a_path_of_another_kind_is_refused(path: str) -> None:
    with pytest.raises(StorageError, match=r"use a local path, s3:// or hf://"):
        Storage().find(path)


@pytest.mark.parametrize("pattern", ["x", "x/*.tar", "x/{0,1}.tar"])
def test_a_missing_bucket_is_named(s3: str, pattern: str) -> None:
    """S3 lists a missing bucket as an empty one; a job over nothing must not end well."""
    with pytest.raises(StorageError, match="no-such-bucket") as caught:
        Storage().find(f"s3://no-such-bucket/{pattern}")
    assert "check the bucket" in caught.value.hint


def test_reading_a_missing_object_is_an_error(place: str) -> None:
    with pytest.raises(StorageError, match="missing: not found"):
        Storage().read(join_path(place, "missing"))


def test_an_unreachable_endpoint_is_named(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.storage.retry._MAX_DELAY", 0.0)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    storage = Storage(StorageConfig(endpoint_url="http://127.0.0.1:9"))
    with pytest.raises(StorageError, match=r"http://127\.0\.0\.1:9") as caught:
        storage.find("s3://bucket/x")
    assert "storage.endpoint_url" in caught.value.hint


def test_no_credentials_say_where_to_put_them(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage = Storage(StorageConfig(endpoint_url=s3, region="eu-west-3"))  # connections are cached by their settings
    with pytest.raises(StorageError, match="no credentials") as caught:
        storage.find("s3://bucket/x")
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


def test_a_storage_can_be_sent_to_another_process() -> None:
    storage = Storage(StorageConfig(region="us-east-1"))
    assert pickle.loads(pickle.dumps(storage)) == storage


def test_braces_expand_as_in_a_shell() -> None:
    assert expand_braces("{a,b}{1..2}") == ["a1", "a2", "b1", "b2"]
    assert expand_braces("{008..010}.tar") == ["008.tar", "009.tar", "010.tar"]
    assert expand_braces("{2..0}") == ["2", "1", "0"]
    assert expand_braces("{,x}y") == ["y", "xy"]
    assert expand_braces("x") == ["x"]


def test_names_are_relative_to_what_comes_before_a_pattern() -> None:
    folders = {"s3://b/x/": "s3://b/x", "s3://b/x/{0..9}/*.tar": "s3://b/x", "/data/a*/b": "/data", "file:///d": "/d"}
    assert {path: base_folder(path) for path in folders} == folders
    assert base_folder("*.tar") == absolute(".")


def test_uploads_that_nobody_will_finish_are_ended(bucket: str) -> None:
    """The parts of a killed writer are invisible, but billed until they are aborted."""
    import s3fs

    fs, name = s3fs.S3FileSystem(), bucket.removeprefix("s3://")
    for key in ("out/rows/part.parquet", "elsewhere/part.parquet"):
        fs.call_s3("create_multipart_upload", Bucket=name, Key=key)
    assert Storage().abort_uploads(f"{bucket}/out") == 1
    left = fs.call_s3("list_multipart_uploads", Bucket=name)["Uploads"]
    assert [upload["Key"] for upload in left] == ["elsewhere/part.parquet"]
