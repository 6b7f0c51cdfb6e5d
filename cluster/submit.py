"""Submit commands to the head of a Ray cluster and follow them, through Ray's job API.

A submission is a command, its runtime environment and an id. All errors of the head are raised as HeadError.
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

from cluster.answers import HeadError, HeadUnreachable, no_job_server, translate_errors
from cluster.ray_internals import JobClient, use_token
from cluster.runtime_env import STOP_SECONDS, Environment

STOPPED_EXIT_CODE = 130  # as after Ctrl-C
_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # in the order of Ray's own commands
_STOP_GRACE = 60.0  # seconds
_POLL_SECONDS, _AWAY_SECONDS = 2.0, 300.0  # between polls; how long the head may be unreachable
_FIRST_NOTE, _NOTE_EVERY = 10.0, 30.0  # seconds, about a submission that is pending
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")  # submission id: used in urls and file names


@dataclass(frozen=True)
class Submission:
    """A submission as the head reports it. Times are in seconds since 1970; `code` is the exit code, once known."""

    id: str
    state: str
    command: str
    message: str
    metadata: Mapping[str, str]
    began: float
    ended: float | None
    code: int | None

    @classmethod
    def from_details(cls, details: JobDetails) -> "Submission":
        """Convert Ray's details, without the environment: it holds credentials."""
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
    def finished(self) -> bool:
        return self.state in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def exit_code(self) -> int:
        """The exit code as if the command had run here: 1 for a command that never started or was killed."""
        if self.state == "STOPPED":
            return STOPPED_EXIT_CODE
        if self.state == "SUCCEEDED":
            return 0
        return self.code if self.code is not None and 0 < self.code < 256 else 1


@dataclass(frozen=True)
class Head:
    """A connection to the head's job server."""

    client: JobSubmissionClient
    address: str

    def submit(self, command: str, environment: Environment, metadata: Mapping[str, str], id: str) -> None:
        with translate_errors(self.address):
            self.client.submit_job(
                entrypoint=command, runtime_env=environment.to_ray(), metadata=dict(metadata), submission_id=id
            )

    def get(self, id: str) -> Submission:
        with translate_errors(self.address):
            return Submission.from_details(self.client.get_job_info(_checked(id)))

    def list(self) -> list[Submission]:
        """Return every submission that the cluster remembers, newest first."""
        with translate_errors(self.address):
            found = [Submission.from_details(details) for details in self.client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda submission: -submission.began)

    def log(self, id: str) -> str:
        with translate_errors(self.address):
            return str(self.client.get_job_logs(_checked(id)))

    def follow(self, id: str, say: Callable[[str], None]) -> Iterator[str]:
        """Yield the log as it grows, until the submission ends. Call `say` with the reason when nothing arrives.

        Reconnects when the connection or the head is lost. Raises HeadUnreachable after 5 minutes without an answer.
        """
        shown, due, away = 0, time.monotonic() + _FIRST_NOTE, 0.0  # `away`: when answers stopped, or 0
        while True:
            try:
                now = self.get(id)
                if now.state != "PENDING":
                    for text in self._tail(id, shown):
                        shown, away = shown + len(text), 0.0
                        yield text
                    now = self.get(id)
                away = 0.0
            except HeadUnreachable as exc:
                away = away or time.monotonic()
                if time.monotonic() - away >= _AWAY_SECONDS:
                    raise
                say(f"{exc.message}; trying again")
                time.sleep(_POLL_SECONDS)
                continue
            if now.finished:
                return
            if now.state == "PENDING" and time.monotonic() >= due:
                due = time.monotonic() + _NOTE_EVERY
                say(f"waiting for resources: {now.message}")
            time.sleep(_POLL_SECONDS)

    def stop(self, id: str) -> Submission:
        """Stop a submission and wait until it has committed what is in flight. Raises HeadError on timeout."""
        now = self.get(id)
        if now.finished:
            return now
        with translate_errors(self.address):
            self.client.stop_job(id)
        deadline = time.monotonic() + STOP_SECONDS + _STOP_GRACE
        while not (now := self.get(id)).finished:
            if time.monotonic() > deadline:
                raise HeadError(
                    f"{id}: still {now.state} {STOP_SECONDS + _STOP_GRACE:.0f} s after it was asked to stop"
                )
            time.sleep(0.5)
        return now

    def _tail(self, id: str, skip: int) -> Iterator[str]:
        """Yield the log after its first `skip` characters, and "" for text within them, until the connection ends."""
        lines = self.client.tail_job_logs(id)

        async def more() -> str | None:
            return await anext(lines, None)

        with asyncio.Runner() as runner:  # cancels pending tasks on an interrupt
            while True:
                with translate_errors(self.address):
                    text = runner.run(more())
                if text is None:
                    return
                yield text[skip:]
                skip = max(0, skip - len(text))


def connect(address: str | None = None, verify: str = "true") -> Head:
    """Connect to the head at http(s)://HOST:PORT, or at the address in RAY_API_SERVER_ADDRESS or RAY_ADDRESS.

    `verify` is "true", "false", or a file of CA certificates. Ray reads the token from RAY_AUTH_TOKEN,
    RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. RAY_JOB_HEADERS adds HTTP headers. Raises HeadError.
    """
    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    given = _url(address) if address else default_address()
    if not given:
        raise HeadError("no cluster address is given", "pass --address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS")
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):  # a given token must be used
        use_token()
    shown, trust = _without_password(given), {"true": True, "false": False}.get(verify.lower(), verify)
    with translate_errors(shown), _overriding_address(given):
        try:
            client = JobClient(given, headers=_headers(), verify=trust)
        except (TypeError, ValueError) as exc:  # not an address, or not an answer of Ray
            raise no_job_server(shown) from exc
    theirs = client.server_version
    if theirs.split(".")[:2] != ray.__version__.split(".")[:2]:
        raise HeadError(
            f"{shown} runs Ray {theirs}, and this package needs Ray {ray.__version__}",
            "use an image with that version; cluster/ has manifests for it",
        )
    return Head(client, _without_password(client.get_address()))


def default_address() -> str | None:
    """Return the address in Ray's variables. RAY_ADDRESS may also be HOST:PORT of Ray's GCS, not of a job server."""
    server, cluster = map(os.environ.get, _ADDRESSES)
    return _url(server) if server else cluster


def _url(address: str) -> str:
    return address if "://" in address or address == "auto" else f"http://{address}"


def _without_password(address: str) -> str:
    return re.sub("//[^/]*@", "//", address)


def _checked(id: str) -> str:
    """Raise HeadError unless `id` is a valid id: Ray's client puts any text into its urls."""
    if ID.fullmatch(id):
        return id
    raise HeadError(f"{id!r}: not a submission id", "coyo-jobs list shows the submissions of the cluster")


@contextmanager
def _overriding_address(address: str) -> Iterator[None]:
    """Make `address` win: Ray prefers RAY_API_SERVER_ADDRESS to the address that is passed."""
    previous = os.environ.get(_ADDRESSES[0])
    os.environ[_ADDRESSES[0]] = address
    try:
        yield
    finally:
        os.environ.pop(_ADDRESSES[0])
        if previous is not None:
            os.environ[_ADDRESSES[0]] = previous


def _headers() -> dict[str, str] | None:
    text = os.environ.get("RAY_JOB_HEADERS")
    if not text:
        return None
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as exc:
        raise HeadError(
            f"RAY_JOB_HEADERS is not a JSON object: {exc}", 'such as {"Authorization": "Bearer ..."}'
        ) from exc
