"""An unreliable store: transient errors are retried, permanent errors are raised at once, and all bytes are right."""

import errno
import io
import tarfile
from pathlib import Path

import pytest

from jobs import storage as storing
from jobs.config import SourceConfig, StorageConfig
from jobs.demo import corpus
from jobs.errors import JobError, ShardsSetAside, StorageError
from jobs.output.ledger import read as read_ledger
from jobs.run import run
from jobs.sources import ReadUnit
from jobs.sources.discover import discover
from jobs.sources.discover import read as read_unit
from jobs.storage import CHUNK, Storage, retry
from tests.support.events import events
from tests.support.faulty_s3 import DENIED, Fault, FaultyS3, cut, delay, error, first, lose_answer, reset, short
from tests.support.outputs import check_whole
from tests.support.recipes import tiny_job
from tests.support.shards import put_folder

SLOW_DOWN = error(503, "SlowDown")
DATA_BYTES = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No retry delays in this process, neither ours nor the S3 client's; Ray's workers are unaffected."""
    monkeypatch.setattr(retry, "_MAX_DELAY", 0.0)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)


@pytest.fixture
def storage(proxy: FaultyS3) -> Storage:
    return Storage(StorageConfig(endpoint_url=proxy.endpoint, region="us-east-1", anonymous=True))


HEALED = {
    "slow down": (SLOW_DOWN, 3),
    "internal error": (error(500, "InternalError"), 2),
    "bad gateway": (error(502, "BadGateway"), 2),
    "no answer": (reset, 3),
    "lost mid body": (cut(1000), 3),
    "lost before the body": (cut(0), 3),
    "short": (short(1000), 2),
    "late": (delay(0.3), 1),
}


@pytest.mark.parametrize(("fault", "times"), HEALED.values(), ids=HEALED)
def test_a_read_that_stumbles_gives_the_right_bytes(
    bucket: str, proxy: FaultyS3, storage: Storage, fault: Fault, times: int
) -> None:
    """A read that ends early without an error would be a shard with fewer rows."""
    Storage().put(f"{bucket}/x", DATA_BYTES)
    (entry,) = storage.find(f"{bucket}/x")
    rule = proxy.on("GET", r"/x$", fault, times=times)
    assert storage.read_range(entry, 5000, 500_000) == DATA_BYTES[5000:500_000]
    assert rule.seen == times + (0 if fault is HEALED["late"][0] else 1)


@pytest.mark.parametrize("name", ["slow down", "internal error", "no answer", "late"])
def test_a_write_that_stumbles_is_there_in_the_end(bucket: str, proxy: FaultyS3, storage: Storage, name: str) -> None:
    fault, times = HEALED[name]
    proxy.on("PUT", r"/y$", fault, times=times)
    storage.put(f"{bucket}/y", DATA_BYTES)
    assert Storage().read(f"{bucket}/y") == DATA_BYTES


def test_a_write_whose_answer_is_lost_is_done_again(bucket: str, proxy: FaultyS3, storage: Storage) -> None:
    rule = proxy.on("PUT", r"/y$", lose_answer)
    storage.put(f"{bucket}/y", DATA_BYTES)
    assert (rule.seen, Storage().read(f"{bucket}/y")) == (2, DATA_BYTES)


def test_a_store_that_never_recovers_is_an_error_that_names_the_path(
    bucket: str, proxy: FaultyS3, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    monkeypatch.setattr(storing, "CLIENT_ATTEMPTS", 1)
    Storage().put(f"{bucket}/x", DATA_BYTES)
    (entry,) = storage.find(f"{bucket}/x")
    proxy.dark(SLOW_DOWN)
    with pytest.raises(StorageError, match=f"{bucket}/x"):
        storage.read_range(entry, 0, 10)


@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredToken", "InvalidAccessKeyId"])
def test_refused_credentials_are_said_at_once(bucket: str, proxy: FaultyS3, storage: Storage, code: str) -> None:
    """An hour of retries with an expired token would be an hour of idle GPUs."""
    Storage().put(f"{bucket}/x", DATA_BYTES)
    (entry,) = storage.find(f"{bucket}/x")
    rule = proxy.on("GET", r"/x$", error(403, code), first=2, times=None)
    stream = storage.open(entry)
    assert stream.read(100) == DATA_BYTES[:100]
    with pytest.raises(StorageError, match=f"{bucket}/x: access denied") as told:
        stream.read(100)
    assert "credentials" in told.value.hint
    assert rule.seen == 2  # the first read, and no second try


@pytest.mark.parametrize("other", [DATA_BYTES[::-1], DATA_BYTES[: 1 << 19]], ids=["same size", "shorter"])
def test_an_object_replaced_while_it_is_read_is_an_error(bucket: str, storage: Storage, other: bytes) -> None:
    """Mixing two versions of a shard would give rows the images of other rows."""
    Storage().put(f"{bucket}/x", DATA_BYTES)
    (entry,) = storage.find(f"{bucket}/x")
    stream = storage.open(entry)
    stream.read(1 << 10)
    Storage().put(f"{bucket}/x", other)
    with pytest.raises(StorageError, match="was replaced while it was read"):
        stream.read()


def test_an_object_replaced_while_a_read_is_tried_again_is_an_error(
    bucket: str, proxy: FaultyS3, storage: Storage
) -> None:
    Storage().put(f"{bucket}/x", DATA_BYTES)
    (entry,) = storage.find(f"{bucket}/x")
    proxy.on("GET", r"/x$", first(lambda: Storage().put(f"{bucket}/x", DATA_BYTES[::-1])), first=2)
    proxy.on("GET", r"/x$", cut(1000))
    with pytest.raises(StorageError, match="was replaced while it was read"):
        storage.read_range(entry, 0, 1 << 20)


def test_a_tar_streamed_through_lost_connections_gives_the_same_rows(
    bucket: str, proxy: FaultyS3, storage: Storage, tmp_path: Path
) -> None:
    """A stream of 0.5 GB loses its connection now and then; resuming at a wrong offset would damage the tar."""
    corpus.write_tars(tmp_path / "in", 1, 30)
    _pad(tmp_path / "in" / "00000.tar", 3 * CHUNK)
    put_folder(tmp_path / "in", f"{bucket}/in")
    source = discover(storage, SourceConfig(path=f"{bucket}/in"))
    unit = ReadUnit(source.shards[0])
    whole = list(read_unit(storage, source.layout, unit))
    assert sum(table.num_rows for table in whole) >= 30
    for request, offset in enumerate([0, 511, 512, CHUNK // 2], 1):
        proxy.on("GET", r"/in/", cut(offset), first=2 * request)
    assert list(read_unit(storage, source.layout, unit)) == whole
    assert proxy.asked("GET", r"/in/") >= 2 * 4 + 4


def _pad(tar: Path, size: int) -> None:
    """One more sample, of noise, so that the tar takes several requests."""
    with tarfile.open(tar, "a", format=tarfile.USTAR_FORMAT) as file:
        member = tarfile.TarInfo("999999999.jpg")
        member.size = size
        file.addfile(member, io.BytesIO(b"\xff\xd8" * (size // 2)))


def test_a_job_on_a_store_that_stumbles_comes_out_whole(
    ray_session: None, bucket: str, given: list[tuple[str, int]], proxy: FaultyS3
) -> None:
    """Every kind of request fails now and then, in every process of the job."""
    for method, at in (("GET", 2), ("GET", 5), ("GET", 9), ("PUT", 2), ("PUT", 4), ("PUT", 6), ("HEAD", 2)):
        proxy.on(method, ".", SLOW_DOWN if at % 2 else reset, first=at)
    proxy.on("GET", r"/in/", cut(700), first=3)
    config = tiny_job(bucket, proxy)
    run(config)
    check_whole(config.output.path, given)


def test_credentials_that_expire_mid_run_stop_it_and_the_next_run_goes_on(
    no_ray: None, bucket: str, given: list[tuple[str, int]], proxy: FaultyS3
) -> None:
    config = tiny_job(bucket, proxy)
    proxy.on("GET", r"/in/part-00001", error(403, "ExpiredToken"), times=None)
    with pytest.raises(JobError, match=r"part-00001\.parquet: access denied") as told:
        run(config)
    assert not isinstance(told.value, ShardsSetAside)
    assert "credentials" in told.value.hint
    proxy.light()
    before = {obj.entry.path for obj in read_ledger(Storage(), config.output.path).objects}
    run(config)
    assert before <= {obj.entry.path for obj in read_ledger(Storage(), config.output.path).objects}
    check_whole(config.output.path, given)


def test_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left on device") as told:
        Storage().put(str(tmp_path / "x"), b"x")
    assert told.value.hint.startswith("free some space")


def test_a_shard_that_is_refused_can_be_set_aside_and_done_later(
    no_ray: None, bucket: str, given: list[tuple[str, int]], proxy: FaultyS3, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One object with a broken ACL must not block 10,000 others, and must not be forgotten."""
    from jobs.cli import DAMAGED, main

    config = tiny_job(bucket, proxy, unreadable_shards="set_aside")
    (tmp_path / "job.yaml").write_text(config.to_yaml())
    proxy.on("GET", r"/in/part-00001", DENIED, times=None)
    assert main(["run", str(tmp_path / "job.yaml"), "--log", "json"]) == DAMAGED
    said = [(event["event"], event.get("shard"), event.get("code")) for event in events(capfd.readouterr().err)]
    assert ("set_aside", "part-00001.parquet", None) in said
    assert said[-1] == ("error", None, DAMAGED)
    coverage = read_ledger(Storage(), config.output.path).coverage
    assert coverage["part-00000.parquet"].complete
    assert "part-00001.parquet" not in coverage
    assert not Storage().exists(f"{config.output.path}/_SUCCESS")
    proxy.light()
    summary = run(config)
    assert summary.run["rows"] == 12
    check_whole(config.output.path, given)
