"""One living run at a time holds a part of an output, and a dead one does not keep it."""

import errno
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jobs.driver.lease import Lease
from jobs.driver.tasks import Partition
from jobs.errors import OutputError
from jobs.storage import Storage


def lease(folder: Path, run: str, part: Partition | None = None) -> Lease:
    return Lease(Storage(), str(folder), run, part)


def left_behind(folder: Path, **about: Any) -> None:
    """A lease of run `old`, which lives here for another hour, where `about` says nothing else."""
    holder = {"run": "old", "host": socket.gethostname(), "pid": os.getpid(), "until": time.time() + 3600}
    (folder / "_lease.json").write_text(json.dumps(holder | about))


def holder(folder: Path) -> str:
    return str(json.loads((folder / "_lease.json").read_text())["run"])


def gone() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lease_is_there_while_it_is_held(tmp_path: Path) -> None:
    mine = lease(tmp_path, "new")
    mine.acquire()
    mine.renew()
    assert holder(tmp_path) == "new"
    mine.release()
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_is_told_who_writes(tmp_path: Path) -> None:
    left_behind(tmp_path)
    with pytest.raises(OutputError, match=f"run old on {socket.gethostname()} .process {os.getpid()}. is writing here"):
        lease(tmp_path, "new").acquire()
    lease(tmp_path, "new").release()
    assert holder(tmp_path) == "old"


def test_parts_do_not_wait_for_each_other(tmp_path: Path) -> None:
    lease(tmp_path, "theirs", Partition(1, 3)).acquire()
    lease(tmp_path, "new", Partition(2, 3)).acquire()


@pytest.mark.parametrize(
    ("held", "wanted"), [(None, Partition(2, 3)), (Partition(2, 3), None), (Partition(1, 4), Partition(2, 3))]
)
def test_runs_that_may_write_the_same_shards_do_not_run_at_once(
    tmp_path: Path, held: Partition | None, wanted: Partition | None
) -> None:
    """A division into three and one into four share shards, and so does either with the whole."""
    lease(tmp_path, "theirs", held).acquire()
    with pytest.raises(OutputError, match="run theirs on"):
        lease(tmp_path, "new", wanted).acquire()


@pytest.mark.parametrize(
    "dead", [lambda: {"until": time.time() - 1}, lambda: {"pid": gone()}], ids=["expired", "killed"]
)
def test_the_lease_of_a_dead_run_is_taken(tmp_path: Path, dead: Callable[[], dict[str, Any]]) -> None:
    left_behind(tmp_path, **dead())
    lease(tmp_path, "new").acquire()
    assert holder(tmp_path) == "new"


def test_a_run_on_another_machine_lives_until_its_lease_ends(tmp_path: Path) -> None:
    left_behind(tmp_path, host="elsewhere", pid=gone())
    with pytest.raises(OutputError, match="on elsewhere"):
        lease(tmp_path, "new").acquire()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"run": "a", "host": "b", "pid": "c", "until": "d"}'])
def test_a_lease_that_says_nothing_has_expired(tmp_path: Path, text: str) -> None:
    """A disk that was full left it empty; nobody should have to find and delete it."""
    (tmp_path / "_lease.json").write_text(text)
    lease(tmp_path, "new").acquire()
    assert holder(tmp_path) == "new"


def test_a_run_whose_lease_was_taken_stops(tmp_path: Path) -> None:
    mine = lease(tmp_path, "new")
    mine.acquire()
    left_behind(tmp_path)
    with pytest.raises(OutputError, match="run old"):
        mine.renew()
    (tmp_path / "_lease.json").unlink()
    with pytest.raises(OutputError, match="lease is gone"):
        mine.renew()


def test_a_disk_without_links_and_without_synced_folders_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buckets and shares that are mounted: every run ended with `Operation not permitted` at its lease."""
    sync = os.fsync

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    def files_only(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(handle)

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "fsync", files_only)
    with ThreadPoolExecutor(8) as pool:
        put = list(pool.map(lambda n: Storage().put_if_absent(f"{tmp_path}/x", b"%d" % n), range(8)))
    assert put.count(True) == 1
    assert Storage().read(f"{tmp_path}/x") == b"%d" % put.index(True)
    Storage().put(f"{tmp_path}/x", b"replaced")
    assert Storage().read(f"{tmp_path}/x") == b"replaced"
