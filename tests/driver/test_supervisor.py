"""What a run waits for, and for how long, before it says that it is stuck."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.commands.status import status
from jobs.config import JobConfig
from jobs.driver import supervisor
from jobs.driver.coordinator import Coordinator
from jobs.driver.lease import Lease
from jobs.driver.progress import read_progress
from jobs.driver.run_state import RunState, Tally
from jobs.driver.supervisor import QueuedRun, Supervisor
from jobs.driver.tasks import Work
from jobs.errors import ClusterError, OutputError
from jobs.log import to_stderr
from jobs.storage import Storage
from tests.support.recipes import demo_job


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Moves by hand."""
    time = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: time.now))
    return time


def watching(config: JobConfig, missing: str = "") -> Supervisor:
    work = Work(tasks=(), shards=2, shards_done=0, rows_done=0, bytes_left=10)
    any_: Any = None
    nodes: Any = SimpleNamespace(poll=lambda: (missing, []))
    return Supervisor("r1", "", work, config, Storage(), any_, Coordinator(), any_, nodes)


def after(rows: int) -> RunState:
    return RunState({"decode": Tally(rows)})


def minded(seen: Supervisor, clock: Any, at: float, rows: int) -> str:
    """What it says when so many seconds have passed since the beginning, and so many rows."""
    clock.now, seen.seen = 1000.0 + at, after(rows)
    seen._check_stall()
    return str(seen.stopped or "")


def test_a_run_in_which_nothing_moves_is_stopped_and_says_so(tmp_path: Path, clock: Any) -> None:
    seen = watching(demo_job(tmp_path, tmp_path / "out", limits={"stalled_seconds": 100}))
    assert [minded(seen, clock, at, rows) for at, rows in ((0, 5), (99, 6), (198, 6))] == ["", "", ""]
    said = minded(seen, clock, 200, 6)
    assert "no row was read, decoded or annotated for 101 s (limits.stalled_seconds)" in said
    assert isinstance(seen.stopped, ClusterError)
    minded(seen, clock, 300, 6)
    assert seen.coordinator.is_stopping()


def test_gpus_that_went_away_have_as_long_as_those_that_never_came(tmp_path: Path, clock: Any) -> None:
    """Ray's own timeout ends a healthy job while a spot node is being replaced."""
    config = demo_job(tmp_path, tmp_path / "out", limits={"stalled_seconds": 100}, compute={"wait_seconds": 1000})
    seen = watching(config, missing="GPUs: none is left")
    seen._began = clock.now
    assert minded(seen, clock, 0, 5) == minded(seen, clock, 900, 5) == ""
    assert "waiting for GPUs: none is left" in str(seen.now("running"))
    assert "1,100 s (compute.wait_seconds) for GPUs: none is left" in minded(seen, clock, 1100, 5)


def test_a_run_that_waits_shows_it_and_keeps_its_lease(
    tmp_path: Path, clock: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out, storage = str(tmp_path / "out"), Storage()
    lease = Lease(storage, out, "r1")
    lease.acquire()
    waiting = QueuedRun("r1", "", storage, out, lease)
    held = (tmp_path / "out" / "_lease.json").read_text()
    with to_stderr("text"):
        for clock.now in range(1000, 1062):
            waiting.report("compute.gpus is 8, but Ray sees 2", clock.now - 1000)
    assert len(capsys.readouterr().err.splitlines()) == 3  # at 0, 30 and 60 seconds
    assert (tmp_path / "out" / "_lease.json").read_text() != held
    assert str(read_progress(storage, out)[0]) == "60 s  waiting: compute.gpus is 8, but Ray sees 2"
    told, healthy = status(out, as_json=False)
    assert healthy
    assert "waiting: compute.gpus is 8" in told
    with pytest.raises(KeyboardInterrupt), waiting.publish_if_stopped():
        raise KeyboardInterrupt
    assert read_progress(storage, out)[0].state == "stopped"
    lease.release()
    with pytest.raises(OutputError):
        QueuedRun("r1", "", storage, out, lease).report("compute.gpus is 8, but Ray sees 2", 99)
