"""A real head with a job server, a token and TLS; commands reach it in processes of their own."""

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.heads import TOKEN, Place
from tests.support.processes import ENVIRONMENT, free_port, processes, until


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


def _wait_for(url: str) -> None:
    """Until it lists its jobs: it answers earlier than it takes one."""
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})

    def lists() -> bool:
        with contextlib.suppress(OSError):  # an HTTPError is one
            urllib.request.urlopen(asked, timeout=60).close()
            return True
        return False

    until(lists)
