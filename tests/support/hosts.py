"""Several hosts on one Linux machine, as root: each has its own network, name, processes, disk and /dev/shm.

A host is namespaces and nothing else. It lives as long as its first process, and that one as long as its stdin is
open: however its owner ends, the kernel takes the host's processes, mounts and cables away. Their switch is in a
namespace too, so that nothing has a name in the machine's own network, and two runs never meet.

`python -m tests.support.hosts` shows a cluster that loses hosts in the middle of a job.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE

ROOT = Path(__file__).parents[2]
TOOLS = ("ip", "unshare", "nsenter", "mount")
_CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "PYTHON"))}
# $1 where its disk is for it, $2 where it is for us, $3 its name. bash, as a first process has to reap orphans.
_BOOT = """
mount --bind "$2" "$1" && mount --bind "${2%/*}/hosts" /etc/hosts && mount -t tmpfs tmpfs /dev/shm &&
echo "$3" > /proc/sys/kernel/hostname && echo up && read
"""


class HostError(Exception):
    """A host cannot be made, or a command on one failed."""


@dataclass
class Host:
    """One that is up; `files` is its disk as seen from outside."""

    name: str
    address: str
    files: Path
    disk: Path
    _cable: str
    _first: "subprocess.Popen[str]"

    @property
    def up(self) -> bool:
        return self._first.poll() is None

    def start(
        self, *command: object, env: Mapping[str, str] | None = None, log: str = "log"
    ) -> "subprocess.Popen[str]":
        """A command that goes on by itself; what it says is in `files/log`, its folder is the project's."""
        with (self.files / log).open("a") as out:
            return subprocess.Popen(self._here(command, env or {}), stdin=DEVNULL, stdout=out, stderr=out, text=True)

    def run(self, *command: object, env: Mapping[str, str] | None = None, seconds: float = 240) -> str:
        """What a command prints. Raises HostError where it fails, or takes longer."""
        return _said(self._here(command, env or {}), seconds)

    def kill(self) -> None:
        """All its processes at once; its disk stays, and `boot` brings it up again."""
        _end(self._first)

    def _here(self, command: Sequence[object], env: Mapping[str, str]) -> list[str]:
        pid = self._first.pid
        if not self.up:
            raise HostError(f"{self.name} is down")
        inside = ["--mount", "--net", "--uts", "--ipc", f"--pid=/proc/{pid}/ns/pid_for_children"]
        own = {**_CLEAN, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        own |= {"HOME": f"{self.disk}", "TMPDIR": f"{self.disk}", "RAY_TMPDIR": f"{self.disk}", **env}
        words = [*(f"{name}={value}" for name, value in own.items()), *map(str, command)]
        return ["nsenter", f"--target={pid}", *inside, "env", "--ignore-environment", f"--chdir={ROOT}", *words]


@dataclass
class Network:
    """A switch, and the hosts that were ever plugged into it. They know each other by name."""

    folder: Path
    _switch: "subprocess.Popen[str]"
    known: dict[str, Host] = field(default_factory=dict)
    _cables: int = 0

    def boot(self, name: str) -> Host:
        """A new host, or one that was killed: with its address and its disk."""
        before = self.known.get(name)
        address = before.address if before else f"10.77.0.{len(self.known) + 1}"
        files, disk, self._cables = self.folder / name, self.folder / "disk", self._cables + 1
        if not before:
            files.mkdir()
            with (self.folder / "hosts").open("a") as told:
                told.write(f"{address} {name}\n")
        card = f"02:00:00:00:00:{int(address.rpartition('.')[2]):02x}"  # others remember it for a minute
        apart = ("--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
        first = _first(*apart, "bash", "-c", _BOOT, "host", disk, files, name)
        host = self.known[name] = Host(name, address, files, disk, f"port{self._cables}", first)
        self._plug(
            f"link add {host._cable} type veth peer name eth0 address {card} netns {first.pid}",
            f"link set {host._cable} master switch up",
        )
        for words in ("link set lo up", f"address add {address}/24 dev eth0", "link set eth0 up"):
            host.run("ip", *words.split())
        return host

    def cut(self, host: Host) -> None:
        """Its cable is pulled: whoever talks to it, and it itself, hears nothing, not even a refusal."""
        self._plug(f"link set {host._cable} down")

    def heal(self, host: Host) -> None:
        self._plug(f"link set {host._cable} up")

    def down(self) -> None:
        _end(*(host._first for host in self.known.values()), self._switch)

    def _plug(self, *changes: str) -> None:
        for words in changes:
            _said(["nsenter", f"--target={self._switch.pid}", "--net", "ip", *words.split()])


@contextmanager
def network() -> Iterator[Network]:
    """An empty one; nothing of it is left in the end. Raises HostError where it cannot be made."""
    with tempfile.TemporaryDirectory(prefix="n", dir="/tmp") as folder:  # short: a socket's path has 107 bytes
        (Path(folder) / "disk").mkdir()
        (Path(folder) / "hosts").write_text("127.0.0.1 localhost\n")
        made = Network(Path(folder), _first("--net", "bash", "-c", "echo up && read"))
        try:
            made._plug("link add switch type bridge", "link set switch up")
            yield made
        finally:
            made.down()


def unavailable() -> str | None:
    """Why there can be no hosts here; found out by making one."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "namespaces as hosts need root on Linux"
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"namespaces as hosts need {', '.join(missing)}"
    try:
        with network() as made:
            made.boot("one")
    except HostError as exc:
        return f"no namespaces as hosts here: {exc}"
    return None


def until(true: Callable[[], object], what: str, seconds: float = 240) -> None:
    """A HostError meanwhile is a no. Raises TimeoutError, which says what did not come to pass."""
    end = time.monotonic() + seconds
    while True:
        why: object = ""
        try:
            if true():
                return
        except HostError as exc:
            why = exc
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s. {why}")
        time.sleep(0.2)


def _first(*words: object) -> "subprocess.Popen[str]":
    """A first process in namespaces of its own, once it is up; it ends with its stdin."""
    process = subprocess.Popen(["unshare", *map(str, words)], stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline() != "up\n":
        process.kill()
        _, why = process.communicate()
        raise HostError(why.strip() or f"unshare ended with {process.returncode}")
    return process


def _end(*processes: "subprocess.Popen[str]") -> None:
    """When it returns, the kernel has ended every process of their namespaces."""
    for process in processes:
        for stream in filter(None, (process.stdin, process.stdout, process.stderr)):
            stream.close()
    for process in processes:
        process.wait(timeout=240)


def _said(command: Sequence[str], seconds: float = 240) -> str:
    try:
        done = subprocess.run(command, stdin=DEVNULL, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as exc:
        raise HostError(f"{' '.join(command[-4:])}: not within {seconds:.0f} s") from exc
    if done.returncode:
        raise HostError(f"{' '.join(command[-4:])}: code {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


if __name__ == "__main__":
    from tests.support.losses import show

    sys.exit(show())
