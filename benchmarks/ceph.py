"""A real S3 server on the loopback interface: Ceph's RADOS Gateway with one monitor and one in-memory OSD.

Install it on Debian or Ubuntu: apt-get install radosgw ceph-mon ceph-osd ceph-common
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import s3fs

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "ceph-authtool", "monmaptool")
_CONF = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon}]
public addr = 127.0.0.1
keyring = {home}/keyring
run dir = {home}
log file = {home}/$name.log
admin socket = {home}/$name.asok
auth allow insecure global id reclaim = false
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mon data = {home}/mon
osd data = {home}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd class load list = *
osd class default list = *
[client]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw verify ssl = false
rgw dynamic resharding = false
"""


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextlib.contextmanager
def server(bucket: str) -> Iterator[dict[str, str]]:
    """Start a server with a bucket. Set and yield the AWS_* environment for it. Stop all its processes at the end."""
    with tempfile.TemporaryDirectory(prefix="ceph-") as folder, contextlib.ExitStack() as running:
        home, port, mon = Path(folder), _free_port(), _free_port()
        conf = home / "ceph.conf"
        conf.write_text(_CONF.format(fsid=uuid.uuid4(), home=home, port=port, mon=mon))
        _format(home, mon)

        def start(*command: str) -> None:
            process = subprocess.Popen([*command, "-c", str(conf), "-f"], stdout=log, stderr=log)
            running.callback(process.wait)
            running.callback(process.kill)

        log = running.enter_context((home / "log").open("wb"))
        start("ceph-mon", "-i", "a")
        _until(lambda: _ask(conf, "-s") is not None, home, "the monitor")
        osd = str(uuid.uuid4())
        _ask(conf, "osd", "new", osd, "0")
        _call("ceph-osd", "-c", str(conf), "-i", "0", "--mkfs", "--osd-uuid", osd)
        start("ceph-osd", "-i", "0")
        _until(lambda: "1 up" in (_ask(conf, "osd", "stat") or ""), home, "the OSD")
        start("radosgw", "-n", "client.rgw")
        _until(lambda: _answers(port), home, "the gateway")
        key, secret = uuid.uuid4().hex, uuid.uuid4().hex
        user = ("--uid=soak", "--display-name=soak", f"--access-key={key}", f"--secret-key={secret}")
        _call("radosgw-admin", "-c", str(conf), "user", "create", *user)
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        os.environ.update(environment)
        s3fs.S3FileSystem().call_s3("create_bucket", Bucket=bucket)
        yield environment


def _format(home: Path, port: int) -> None:
    for name in ("mon", "osd"):
        (home / name).mkdir()
    keys, names = str(home / "keyring"), str(home / "monmap")
    _call("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{port}]", names)
    _call("ceph-authtool", "--create-keyring", keys, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    for who in ("client.admin", "client.rgw", "osd.0"):
        mon = "allow profile osd" if who == "osd.0" else "allow *"
        _call("ceph-authtool", keys, "--gen-key", "-n", who, "--cap", "mon", mon, "--cap", "osd", "allow *")
    _call("ceph-mon", "-c", str(home / "ceph.conf"), "-i", "a", "--mkfs", "--monmap", names, "--keyring", keys)


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")


def _ask(conf: Path, *question: str) -> str | None:
    try:
        done = subprocess.run(["ceph", "-c", str(conf), *question], capture_output=True, text=True, timeout=5)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _until(condition: Callable[[], bool], home: Path, name: str, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{name} did not start:\n{(home / 'log').read_text()[-2000:]}")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":  # python -m benchmarks.ceph opens a shell with a running server
    with server("coyo") as environment:
        subprocess.run([os.environ.get("SHELL", "sh")], env={**os.environ, **environment})
