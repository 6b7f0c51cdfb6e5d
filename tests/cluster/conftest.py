"""A real head with a job server, a token and TLS; commands reach it in processes of their own."""

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import PIPE
from typing import Any
from urllib.error import HTTPError

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from jobs import __version__
from jobs.cli import main
from tests.end_to_end.test_stopping import ENVIRONMENT, ROOT, processes

TOKEN = "5a1f0c9b7d3e48268f10b2c4d6e8fa02"


@dataclass(frozen=True)
class Place:
    """A head: where its job server is, plain and behind TLS, whom to trust for that, and where its logs are."""

    plain: str
    secure: str
    trust: Path
    logs: Path

    def start(
        self, *words: object, env: Mapping[str, str] | None = None, of: str = __version__
    ) -> "subprocess.Popen[str]":
        """`coyo-jobs WORDS` of a version in a process of its own, with the cluster and its token in the environment."""
        command = f"import jobs; jobs.__version__ = {of!r}; from jobs.cli import entry; entry()"
        where = {"RAY_AUTH_TOKEN": TOKEN, "RAY_API_SERVER_ADDRESS": self.plain}
        return subprocess.Popen(
            [sys.executable, "-c", command, *map(str, words)],
            env={**ENVIRONMENT, **where, **(env or {})}, cwd=ROOT, text=True, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip

    def answers(self, path: str) -> Any:
        """What the dashboard's own pages ask it."""
        asked = urllib.request.Request(self.plain + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return json.load(answer)

    def says(self, *words: object, code: int = 0) -> str:
        """What a command prints here and now. The token is a header: this process may have a Ray with another."""
        header = json.dumps({"Authorization": f"Bearer {TOKEN}"})
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            patch.setenv("RAY_JOB_HEADERS", header)
            patch.setenv("RAY_API_SERVER_ADDRESS", self.plain)
            given = main([str(word) for word in words])
        assert given == code, out.getvalue()
        return out.getvalue()


def ended(process: "subprocess.Popen[str]", code: int) -> str:
    """All it said, when it has ended with this code."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return out + err


@pytest.fixture(scope="package")
def head(tmp_path_factory: pytest.TempPathFactory, s3: str) -> Iterator[Place]:
    """`ray start --head` with a token, quiet as cluster/ starts it; a TLS end in front of it, as an ingress is."""
    job_server, trust = free_port(), tmp_path_factory.mktemp("tls") / "trust.pem"
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:  # a socket's path has 107 bytes
        command = [
            "ray", "start", "--head", "--block", "--num-cpus=2", f"--port={free_port()}", "--disable-usage-stats",
            f"--dashboard-port={job_server}", f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={folder}",
            f"--ray-client-server-port={free_port()}", "--object-store-memory=300000000", "--include-dashboard=true",
        ]  # fmt: skip
        clean = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("AWS_")}
        auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_LOGGER_LEVEL": "warning"}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # python is what it is where the head was started
        process = subprocess.Popen(
            command, env={**clean, **auth, "PATH": path}, cwd=folder, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait_for(f"http://127.0.0.1:{job_server}/api/jobs/")
            with tls(job_server, trust) as port:
                plain, secure = f"http://127.0.0.1:{job_server}", f"https://localhost:{port}"
                yield Place(plain, secure, trust, Path(folder) / "session_latest" / "logs")
        finally:
            for pid in processes(lambda stat: stat[3] == str(process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def tls(port: int, trust: Path) -> Iterator[int]:
    """A TLS end on a port of its own in front of a plain one; `trust` gets the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(trust))
    loop = asyncio.new_event_loop()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(OSError):
            await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))

    server = loop.run_until_complete(asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


def _certificate(trust: Path) -> Path:
    """Of localhost, signed by itself; the file with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    trust.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    both = trust.with_name("key.pem")
    both.write_bytes(secret + trust.read_bytes())
    return both


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str) -> None:
    """Until it lists its jobs: it answers earlier than it takes one."""
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    for _ in range(300):
        try:
            urllib.request.urlopen(asked, timeout=5).close()
            return
        except (HTTPError, OSError):
            time.sleep(0.2)
    raise TimeoutError(f"the head at {url} did not come up")
