"""A job may die at any write. Each window is walked through: the store goes away right before the k-th write, or right
after it with the answer lost; the same command must then complete the output, each row once and nothing half.

All windows without Ray, which has no part in them; one of each kind with it, and all of them in `make soak`.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import schema
from jobs.config import JobConfig
from jobs.errors import JobError, ShardsSetAside
from jobs.output import footer, ledger
from jobs.run import run
from jobs.sources.discover import discover
from jobs.storage import Entry, Storage
from tests.support.faulty_s3 import DENIED, Exchange, Fault, FaultyS3, first, lose_answer
from tests.support.outputs import check_whole
from tests.support.processes import retire_workers
from tests.support.recipes import tiny_job

ROOT = Path(__file__).parents[2]
DATA = r"/out[^/]*/(rows|rejects)/|/_job\.yaml"
LAST = r"/_(labels|summary)\.json|/_SUCCESS"


def before(proxy: FaultyS3, spared: str) -> Fault:
    def fault(exchange: Exchange) -> None:
        proxy.dark(DENIED, spared)
        DENIED(exchange)

    return fault


def after(proxy: FaultyS3, spared: str) -> Fault:
    def fault(exchange: Exchange) -> None:
        exchange.forward()
        before(proxy, spared)(exchange)

    return fault


Window = Callable[[FaultyS3, str], Fault]
WINDOWS = pytest.mark.parametrize("window", [before, after], ids=["before", "after"])


def fails_at(proxy: FaultyS3, config: JobConfig, path: str, window: Window, k: int) -> JobError | None:
    """Run into the window of the k-th write; the run's error, or None if it makes fewer writes. The lease alone stays
    reachable: its process, the one that runs these tests, lives on, and so it would not be taken for dead."""
    rule = proxy.on("PUT", path, window(proxy, "_lease"), first=k)
    try:
        run(config)
    except JobError as exc:
        assert rule.seen >= k
        return exc
    finally:
        proxy.light()
        retire_workers()
    return None


@pytest.fixture(params=["in process", pytest.param("on Ray", marks=pytest.mark.soak)])
def anywhere(request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("no_ray" if request.param == "in process" else "ray_session")


@WINDOWS
def test_a_run_that_dies_at_any_write_of_rows_is_completed_by_the_next(
    anywhere: None, bucket: str, given: list[tuple[str, int]], proxy: FaultyS3, window: Window
) -> None:
    """Spot instances end between any two requests. To the store, before one is after the one before it: one will do."""
    k = 1
    while (window is after or k == 1) and fails_at(
        proxy, config := tiny_job(bucket, proxy, f"out{k}"), DATA, window, k
    ):
        assert not Storage().exists(f"{config.output.path}/_SUCCESS")
        ledger.read(Storage(), config.output.path)  # raises at an object that is not whole
        run(config)
        check_whole(config.output.path, given)
        k += 1
    assert k >= (4 if window is after else 2)  # the recipe, and at least two objects of rows


def test_a_run_that_dies_at_any_write_of_the_end_is_completed_by_the_next(
    no_ray: None, bucket: str, given: list[tuple[str, int]], proxy: FaultyS3
) -> None:
    """_SUCCESS before _summary.json would be a finished job that says nothing; and no row is computed twice."""
    config = tiny_job(bucket, proxy)
    run(config)
    marks = [f"{config.output.path}/{name}" for name in ("_labels.json", "_summary.json", "_SUCCESS")]
    for window in (before, after):
        for k in (1, 2, 3):
            for mark in filter(Storage().exists, marks):
                Storage().delete(mark)
            proxy.forget()
            assert fails_at(proxy, config, LAST, window, k)
            here = [Storage().exists(mark) for mark in marks]
            assert here == [i < k - (window is before) for i in range(3)]
            run(config)
            assert all(map(Storage().exists, marks))
            assert proxy.asked("PUT", DATA) == proxy.asked("GET", r"/in/part-00001") == 0
    check_whole(config.output.path, given)


def test_shards_that_are_done_are_not_asked_for_again(
    no_ray: None, bucket: str, given: list[tuple[str, int]], proxy: FaultyS3
) -> None:
    """Going on with 7 of 10 TB done must not read them again: that is a day, and money."""
    config = tiny_job(bucket, proxy, unreadable_shards="set_aside")
    discover(Storage(config.storage), config.source)
    looks = proxy.asked("GET", r"/in/part-00000")  # the layout comes from the first shard's footer
    proxy.on("GET", r"/in/part-00000", DENIED, first=looks + 1, times=None)
    with pytest.raises(ShardsSetAside):
        run(config)
    assert proxy.asked("GET", r"/in/part-00001") > 0
    proxy.light()
    proxy.forget()
    run(config)
    assert proxy.asked("GET", r"/in/part-00001") == 0
    check_whole(config.output.path, given)


def test_what_an_orphan_writes_late_is_removed(
    no_ray: None, bucket: str, given: list[tuple[str, int]], proxy: FaultyS3
) -> None:
    """A write of a dead run may be under way in the network for a while, and land when its rows are computed again."""
    other = tiny_job(bucket, proxy, "other")
    run(other)
    orphans = [entry for entry in Storage().find(f"{other.output.path}/rows") if entry.size]
    config = tiny_job(bucket, proxy)
    proxy.on("PUT", r"/out/rows/", first(lambda: adopt(orphans, f"{config.output.path}/rows")))
    summary = run(config)
    assert summary.rows + summary.rejects == len(given)
    assert not set(map(name, orphans)) & set(map(name, Storage().find(f"{config.output.path}/rows")))
    check_whole(config.output.path, given)


def test_what_an_orphan_wrote_before_a_run_was_planned_is_removed_too(
    no_ray: None, bucket: str, given: list[tuple[str, int]], proxy: FaultyS3
) -> None:
    """The run that should have removed it was killed as well; the next ones must not be refused for ever."""
    config = tiny_job(bucket, proxy)
    run(config)
    orphans = [entry for entry in Storage().find(f"{config.output.path}/rows") if entry.size]
    adopt(orphans[:1], f"{config.output.path}/rows", "late-")
    Storage().delete(f"{config.output.path}/_SUCCESS")
    run(config)
    check_whole(config.output.path, given)


def adopt(objects: list[Entry], folder: str, prefix: str = "") -> None:
    """Put the same rows there, as written by another run."""
    for entry in objects:
        table = pq.read_table(Storage().open(entry))
        shards, about = footer.decode_provenance(table.schema.metadata[schema.PROVENANCE.encode()])
        mark = {schema.PROVENANCE.encode(): footer.encode_provenance(shards, **{**about, "run": "orphan"})}
        buffer = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, **mark}), buffer)
        Storage().put(f"{folder}/{prefix}{name(entry)}", memoryview(buffer.getvalue()))


def name(entry: Entry) -> str:
    return entry.path.rpartition("/")[2]


def test_the_error_that_stopped_a_run_is_the_one_it_ends_with(
    no_ray: None, bucket: str, given: list[tuple[str, int]], proxy: FaultyS3
) -> None:
    """Somebody who is told that _progress.json cannot be written looks in the wrong place. Nor can the lease be given
    back: it is that of a process which ends, and blocks nobody."""
    config = tiny_job(bucket, proxy)
    proxy.on("PUT", r"/out/rows/", before(proxy, "^$"))
    with pytest.raises(JobError, match=r"/rows/part-"):
        run(config)
    left = json.loads(Storage().read(f"{config.output.path}/_lease.json"))
    assert left["pid"] == os.getpid()


def test_a_run_is_not_refused_by_its_own_lease(
    no_ray: None, bucket: str, given: list[tuple[str, int]], proxy: FaultyS3
) -> None:
    """The store wrote the lease, and its answer was lost: the second try finds the first one's object."""
    proxy.on("PUT", r"/_lease", lose_answer)
    config = tiny_job(bucket, proxy)
    run(config)
    check_whole(config.output.path, given)


def test_a_run_on_ray_that_dies_at_a_write_is_completed_by_the_next(
    ray_session: None, bucket: str, given: list[tuple[str, int]], proxy: FaultyS3, caplog: pytest.LogCaptureFixture
) -> None:
    """One window of each kind. What is told is the one line that says what to do, not 200 lines of Ray's internals."""
    config = tiny_job(bucket, proxy)
    for window in (before, after):
        error = fails_at(proxy, config, r"/out/rows/", window, 1)
        assert "/rows/part-" in str(error)
        assert [record.name for record in caplog.records if record.levelname == "ERROR"] == []
        assert not Storage().exists(f"{config.output.path}/_SUCCESS")
    run(config)
    check_whole(config.output.path, given)
