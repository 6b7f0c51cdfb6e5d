"""A cluster of several hosts, not only of several processes: cables are pulled, machines die, new ones come."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import losses
from tests.support.hosts import ROOT, Host, HostError, network, unavailable, until

_OWNER = """
import time
from tests.support.hosts import network
with network() as made:
    made.boot("one").start("sleep", "1000")
    print(made.folder, flush=True)
    time.sleep(1000)
"""
_KNOCK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), timeout=1)
except OSError as exc:
    print(type(exc).__name__)
"""
REFUSED, SILENT = "ConnectionRefusedError", "TimeoutError"


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    if why := unavailable():
        pytest.skip(why)


def hears(host: Host, other: str) -> str:
    """What knocking where nobody listens gives: ConnectionRefusedError where the other is up, else TimeoutError."""
    return host.run(sys.executable, "-ISc", _KNOCK, other).strip()


def left_of(folder: Path) -> list[str]:
    """Processes that are on a host whose files are there, or that hold its namespaces."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{folder}/" in (process / "mountinfo").read_text() + (process / "environ").read_text(errors="replace"):
                found.append(process.name)
        except OSError:  # it has ended meanwhile
            continue
    return found


def test_a_host_is_apart_and_its_link_and_its_power_can_be_cut() -> None:
    """What the test below does to a cluster is what it says."""
    look = 'hostname; ls /dev/shm "$HOME"; touch /dev/shm/mine "$HOME/mine"; echo /proc/[0-9]*'
    with network() as made:
        one, two = made.boot("one"), made.boot("two")
        for host in (one, two):
            seen = host.run("bash", "-c", look).split()
            assert seen[:4] == [host.name, "/dev/shm:", f"{host.disk}:", "/proc/1"]
            assert len(seen) == 5  # the first process, and this one
        assert (one.files / "mine").exists()
        assert hears(two, "one") == hears(one, "two") == REFUSED
        made.cut(one)
        assert hears(two, "one") == hears(one, "two") == SILENT
        made.heal(one)
        until(lambda: hears(two, "one") == REFUSED, "the link is up again")

        sleeping = one.start("sleep", "1000")
        one.kill()
        assert sleeping.wait(240) != 0
        assert hears(two, "one") == SILENT
        with pytest.raises(HostError, match="one is down"):
            one.run("true")
        again = made.boot("one")
        assert again.run("bash", "-c", look).split()[:5] == ["one", "/dev/shm:", f"{again.disk}:", "log", "mine"]
        until(lambda: hears(two, "one") == REFUSED, "the host is up again")


def test_nothing_is_left_of_hosts_when_their_owner_fails_or_is_killed() -> None:
    links = Path("/sys/class/net")
    before = {link.name for link in links.iterdir()}
    folders: list[Path] = []

    def fails() -> None:
        with network() as made:
            folders.append(made.folder)
            (one := made.boot("one")).start("sleep", "1000")
            assert left_of(made.folder)
            one.run("false")

    with pytest.raises(HostError, match="false: code 1"):
        fails()
    assert not left_of(folders[0])
    assert not folders[0].exists()

    owner = subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    assert left_of(folder)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    until(lambda: not left_of(folder), "all of them end")
    shutil.rmtree(folder)  # only files are left, and no mount
    assert {link.name for link in links.iterdir()} <= before


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_goes_on_while_its_cluster_loses_hosts_and_gets_new_ones() -> None:
    """The host that annotates falls silent, and comes back with what it had in flight when Ray has given it up; then
    the other one dies. Every row is there once, and who submitted it from a third host gets code 0."""
    with losses.cluster() as made:
        outcome = losses.lose_hosts(made, print)
        assert outcome.code == 0
        said, total = (made.client.files / "log").read_text(), losses.SHARDS * losses.ROWS
        assert re.search(r"^\S+ SUCCEEDED after ", said, re.MULTILINE)
        assert f"{total:,} input rows in " in said
        assert all(line.startswith("ok ") for line in outcome.verified.splitlines()), outcome.verified
        assert "1  _SUCCESS is there" in outcome.verified
        assert f"{total:,}  every row is in one object only" in outcome.verified

        assert outcome.counts == ["head"]  # beside the driver, and on no host that may die
        cut, killed = outcome.rows
        assert 0 < outcome.rows[cut] < outcome.rows[killed]
        assert {cut, killed} <= outcome.dead.keys()
        assert "health check" in outcome.dead[cut]
        for host in ("w1", "w2", "w3"):  # processes start where there is work
            assert list(made.hosts.known[host].files.glob("ray/session_2*/logs/worker-*.out")), host
        assert "raylet" not in made.client.run("bash", "-c", "cat /proc/[0-9]*/cmdline")
        with pytest.raises(HostError, match=r"HTTP Error 40[13]"):
            made.get(f"{losses.HEAD}/api/jobs/", "another token")
    assert not left_of(made.hosts.folder)
