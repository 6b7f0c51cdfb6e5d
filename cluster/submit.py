"""A command is handed to the head of a Ray cluster, and looked after from here, through Ray's job API.

Knows nothing of what runs: a command, its environment, its id. Every error of a head is a HeadError with a hint.
"""

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.job_submission import JobDetails, JobSubmissionClient

from cluster.answers import HeadError, Unreachable, absent, translated
from cluster.ray_internals import JobClient, use_token
from cluster.runtime_env import STOP_SECONDS, Environment

STOPPED = 130  # the exit code of what was stopped: what Ctrl-C gives
_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # where Ray's own commands look, in this order
_STOP_GRACE = 60.0  # seconds
_AGAIN, _PATIENCE = 2.0, 300.0  # seconds between two looks, and for how long a head may be away
_SOON, _WAITING_EVERY = 10.0, 30.0
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")  # of a submission: a part of urls and of file names


@dataclass(frozen=True)
class Submission:
    """What the head says of one. Times are seconds since 1970; `code` is the command's exit code, once there is one."""

    id: str
    state: str
    command: str
    message: str
    metadata: Mapping[str, str]
    began: float
    ended: float | None
    code: int | None

    @classmethod
    def of(cls, details: JobDetails) -> "Submission":
        """Without the environment, which holds credentials."""
        return cls(
            id=details.submission_id or details.job_id or "",
            state=details.status.value,
            command=details.entrypoint,
            message=details.message or "",
            metadata=details.metadata or {},
            began=(details.start_time or 0) / 1000,
            ended=details.end_time / 1000 if details.end_time else None,
            code=details.driver_exit_code,
        )

    @property
    def over(self) -> bool:
        return self.state in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def exit_code(self) -> int:
        """As if the command had run here. A command that never ran, or that was killed, failed with 1."""
        if self.state == "STOPPED":
            return STOPPED
        if self.state == "SUCCEEDED":
            return 0
        return self.code if self.code is not None and 0 < self.code < 256 else 1


@dataclass(frozen=True)
class Head:
    """A connection to the head's job server."""

    client: JobSubmissionClient
    address: str

    def submit(self, command: str, environment: Environment, metadata: Mapping[str, str], id: str) -> None:
        with translated(self.address):
            self.client.submit_job(
                entrypoint=command, runtime_env=environment.to_ray(), metadata=dict(metadata), submission_id=id
            )

    def look(self, id: str) -> Submission:
        with translated(self.address):
            return Submission.of(self.client.get_job_info(_checked(id)))

    def list(self) -> list[Submission]:
        """Every submission that the cluster remembers, the newest first."""
        with translated(self.address):
            found = [Submission.of(details) for details in self.client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda submission: -submission.began)

    def log(self, id: str) -> str:
        with translated(self.address):
            return str(self.client.get_job_logs(_checked(id)))

    def follow(self, id: str, say: Callable[[str], None]) -> Iterator[str]:
        """The log as it grows, to the end of the submission; `say` gets a line about why nothing comes.

        A head that is away for a moment, or a connection that ends, costs nothing.
        """
        shown, due, away = 0, time.monotonic() + _SOON, 0.0  # since when there is no answer
        while True:
            try:
                now = self.look(id)
                if now.state != "PENDING":
                    for text in self._tail(id, shown):
                        shown, away = shown + len(text), 0.0
                        yield text
                    now = self.look(id)
                away = 0.0
            except Unreachable as exc:
                away = away or time.monotonic()
                if time.monotonic() - away >= _PATIENCE:
                    raise
                say(f"{exc.message}; trying again")
                time.sleep(_AGAIN)
                continue
            if now.over:
                return
            if now.state == "PENDING" and time.monotonic() >= due:
                due = time.monotonic() + _WAITING_EVERY
                say(f"waiting for resources: {now.message}")
            time.sleep(_AGAIN)

    def stop(self, id: str) -> Submission:
        """Ask it to end, and wait until it has: what is in flight is completed first."""
        now = self.look(id)
        if now.over:
            return now
        with translated(self.address):
            self.client.stop_job(id)
        deadline = time.monotonic() + STOP_SECONDS + _STOP_GRACE
        while not (now := self.look(id)).over:
            if time.monotonic() > deadline:
                raise HeadError(
                    f"{id}: still {now.state} {STOP_SECONDS + _STOP_GRACE:.0f} s after it was asked to stop"
                )
            time.sleep(0.5)
        return now

    def _tail(self, id: str, skip: int) -> Iterator[str]:
        """What the log holds after its first `skip` characters, as it comes; "" for what is in them. Ends with the log,
        or the connection."""
        lines = self.client.tail_job_logs(id)

        async def more() -> str | None:
            return await anext(lines, None)

        with asyncio.Runner() as runner:  # which ends what an interrupt leaves behind
            while True:
                with translated(self.address):
                    text = runner.run(more())
                if text is None:
                    return
                yield text[skip:]
                skip = max(0, skip - len(text))


def connect(address: str | None = None, verify: str = "true") -> Head:
    """To the head at http(s)://HOST:PORT, or at the address in Ray's own variables.

    `verify` is true, false, or the certificates to trust. The token is where Ray looks for it: RAY_AUTH_TOKEN,
    RAY_AUTH_TOKEN_PATH, or its file in the home directory; RAY_JOB_HEADERS adds headers. Raises HeadError.
    """
    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    given = _url(address) if address else default_address()
    if not given:
        raise HeadError("no cluster is named", "--address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS")
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):  # who names a token wants it used
        use_token()
    shown, trust = _shown(given), {"true": True, "false": False}.get(verify.lower(), verify)
    with translated(shown), _named(given):
        try:
            client = JobClient(given, headers=_headers(), verify=trust)
        except (TypeError, ValueError) as exc:  # an address, or an answer, that no head has
            raise absent(shown) from exc
    theirs = client.server_version
    if theirs.split(".")[:2] != ray.__version__.split(".")[:2]:
        raise HeadError(
            f"{shown} runs Ray {theirs}, and this package needs Ray {ray.__version__}",
            "use an image with that version; cluster/ has manifests for it",
        )
    return Head(client, _shown(client.get_address()))


def default_address() -> str | None:
    """Of Ray's own variables. The first names a job server; the second may also name what Ray's processes talk to."""
    server, cluster = map(os.environ.get, _ADDRESSES)
    return _url(server) if server else cluster


def _url(address: str) -> str:
    return address if "://" in address or address == "auto" else f"http://{address}"


def _shown(address: str) -> str:
    return re.sub("//[^/]*@", "//", address)  # without a password


def _checked(id: str) -> str:
    """Ray's client would put any text into its urls."""
    if ID.fullmatch(id):
        return id
    raise HeadError(f"{id!r}: not the id of a submission", "coyo-jobs list shows what the cluster remembers")


@contextmanager
def _named(address: str) -> Iterator[None]:
    """Ray lets its variables win over an address that is given; here what is given wins."""
    before = os.environ.get(_ADDRESSES[0])
    os.environ[_ADDRESSES[0]] = address
    try:
        yield
    finally:
        os.environ.pop(_ADDRESSES[0])
        if before is not None:
            os.environ[_ADDRESSES[0]] = before


def _headers() -> dict[str, str] | None:
    text = os.environ.get("RAY_JOB_HEADERS")
    if not text:
        return None
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as exc:
        raise HeadError(
            f"RAY_JOB_HEADERS is no JSON mapping: {exc}", 'such as {"Authorization": "Bearer ..."}'
        ) from exc
