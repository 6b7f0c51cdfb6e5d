"""Connect to a Ray cluster, or start a local Ray for the duration of a run."""

import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from cluster.claims import Claim, list_claims
from cluster.imports import check_running, missing_folders
from cluster.nodes import Node, alive_nodes
from cluster.ray_internals import job_config, silence_worker_logs

_NOISY = ("ray", "ray.data", "ray.serve", "ray.tune")
_CONNECT_SECONDS = 20.0


@dataclass(frozen=True)
class Session:
    """A Ray to run on. `nodes` waits until Ray has started, and lists its nodes; `claims` lists those of other runs.

    `own` is True for a Ray that was started here. It gets no more nodes and has no other runs.
    """

    own: bool
    nodes: Callable[[], list[Node]]
    claims: Callable[[], list[Claim]] = list


@contextmanager
def session(packages: Sequence[str]) -> Iterator[Session]:
    """Start Ray in the background, or connect to RAY_ADDRESS if it is set, as in a submitted job. Stop it at the end.

    Workers import `packages` from the folders where this process has them. Raises ConnectionError if RAY_ADDRESS does
    not answer, and ShadowedError if the workers of a Ray that already runs would import other packages.
    """
    for name in _NOISY:  # failures are raised, and reported once
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="ray")
    if ray.is_initialized():
        check_running(packages)
        yield Session(False, alive_nodes, list_claims)
        return
    if (address := os.environ.get("RAY_ADDRESS", "")).startswith(("http://", "https://")):
        raise ConnectionError(f"RAY_ADDRESS is {address}, a job server, which only takes submissions")
    if address:
        _check_port(address)
    # Ray's C++ code prints warnings to the terminal that a user of a job cannot act on.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # OpenMP threads must not spin while they wait: on few cores they would slow the decoders.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    options["job_config"] = job_config(missing_folders(packages))
    if not address:
        # At least two CPUs: one actor and one reader must fit even on a single core.
        options |= {"address": "local", "num_cpus": max(2, os.cpu_count() or 1), "include_dashboard": False}
    # Start Ray in a thread: on the main thread it would handle SIGTERM itself and exit silently. Its processes die with
    # the thread that started them, so keep that thread. On an interrupt, wait for the start to finish, then shut down.
    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(_start, options)

        def nodes() -> list[Node]:
            starting.result()
            silence_worker_logs()  # the run logs a process that died in one line
            return alive_nodes()

        try:
            yield Session(not address, nodes, list_claims if address else list)
        finally:
            wait([starting])
            ray.shutdown()


def _check_port(address: str) -> None:
    """Raise ConnectionError if nothing answers at HOST:PORT. Ray itself would try for 20 minutes and ignore signals."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):  # "auto": Ray searches this machine
        return
    deadline = time.monotonic() + _CONNECT_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
            return
        except OSError as exc:
            if time.monotonic() > deadline:
                raise ConnectionError(f"nothing answers at {address}: {exc}") from exc
        time.sleep(1)


def _start(options: dict[str, Any]) -> None:
    """Start Ray with file descriptor 2 sent to /dev/null: its C++ code prints there. Python's stderr keeps working."""
    shown, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    previous = sys.stderr
    with os.fdopen(os.dup(2), "w", buffering=1) as elsewhere:
        if previous is sys.__stderr__:  # a replaced sys.stderr does not write to descriptor 2
            sys.stderr = elsewhere
        os.dup2(null, 2)
        try:
            ray.init(**options)
        finally:
            os.dup2(shown, 2)
            sys.stderr = previous
            os.close(shown)
            os.close(null)
