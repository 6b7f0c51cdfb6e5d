"""Start processes, wait for what they do, and end them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}  # before any fixture


def cut_down(process: "subprocess.Popen[bytes]") -> int:
    """SIGKILL to the whole group; then whatever of Ray is left of it."""
    os.killpg(process.pid, signal.SIGKILL)
    code = process.wait(500)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[3]) == process.pid:  # its session, which is ours
                os.kill(int(stat.parent.name), signal.SIGKILL)
    return code


def until(true: Callable[[], object], seconds: float = 240) -> None:
    """Wait for what will happen. The limit is not a claim: it only says earlier than pytest's what did not happen."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not after {seconds:.0f} s"
        time.sleep(0.02)


@contextlib.contextmanager
def started(folder: Path, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """In a session of its own, with a Ray of its own; nothing of it is left in the end. Its stderr is at folder/log."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            for pid in processes(lambda stat: stat[3] == str(process.pid)):  # its session, which is ours
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def processes(wanted: Callable[[list[str]], bool]) -> list[int]:
    """Those whose /proc/PID/stat, from the state on, is wanted."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if wanted(stat.read_text().rpartition(")")[2].split()):
                found.append(int(stat.parent.name))
    return found


def ours(titles: str) -> list[int]:
    """Processes of this test's Ray that do this right now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            said = path.read_text()
            if any(said.startswith(title) for title in titles.split("|")) and os.getpid() in above(path.parent):
                found.append(int(path.parent.name))
    return found


def above(process: Path) -> list[int]:
    """The process's parents."""
    parents = [int(process.name)]
    while parents[-1] > 1:
        parents.append(int(Path(f"/proc/{parents[-1]}/stat").read_text().rpartition(")")[2].split()[1]))
    return parents


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def retire_workers() -> None:
    """End the workers of this process's Ray, between two runs. Ray Data interrupts the tasks of a run that fails
    wherever they are, and a lock that one held (logging's, say) stays locked in its worker, which the next run gets.
    """
    for pid in ours("ray::IDLE|ray::Read|ray::Map"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
