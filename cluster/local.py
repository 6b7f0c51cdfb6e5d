"""A Ray to run on: the one that is already there, or a quiet one on this machine for as long as it is needed."""

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

from cluster.claims import Claim, claims
from cluster.imports import check_running, missing
from cluster.nodes import Node, alive
from cluster.ray_internals import job_config, silence_worker_logs

_NOISY = ("ray", "ray.data", "ray.serve", "ray.tune")
_KNOCK = 20.0  # seconds


@dataclass(frozen=True)
class Session:
    """A Ray to run on. `nodes` waits until it is there; one of our `own`, on this machine, gets no more of them, and
    has no other runs with `claims`."""

    own: bool
    nodes: Callable[[], list[Node]]
    claims: Callable[[], list[Claim]] = list


@contextmanager
def session(packages: Sequence[str]) -> Iterator[Session]:
    """Starts Ray in the background. With RAY_ADDRESS set, as in a submitted job, that cluster is used. A Ray that was
    started here is stopped again. Workers import these packages from where this process has them: raises ShadowedError
    when a Ray that runs already would import others."""
    for name in _NOISY:  # what fails is raised, and reported once
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="ray")
    if ray.is_initialized():
        check_running(packages)
        yield Session(False, alive, claims)
        return
    if (address := os.environ.get("RAY_ADDRESS", "")).startswith(("http://", "https://")):
        raise ConnectionError(f"RAY_ADDRESS is {address}, a job server, which only takes submissions")
    if address:
        _knock(address)
    # Its C++ parts print warnings to the terminal that no user of a job can act on.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Threads of a model that wait for each other must not spin: on few cores they take them from the decoders.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    options["job_config"] = job_config(missing(packages))
    if not address:
        # Two CPUs at least: one actor and one reader must fit even on a single core.
        options |= {"address": "local", "num_cpus": max(2, os.cpu_count() or 1), "include_dashboard": False}
    # On the main thread Ray would take SIGTERM over, and exit without a word. Its processes die with the thread that
    # started them, so that one lives as long. A Ray that is half there when an interrupt comes is first completed.
    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(_start, options)

        def nodes() -> list[Node]:
            starting.result()
            silence_worker_logs()  # the run says in one line what it does about a process that died
            return alive()

        try:
            yield Session(not address, nodes, claims if address else list)
        finally:
            wait([starting])
            ray.shutdown()


def _knock(address: str) -> None:
    """Raises ConnectionError when nothing answers at HOST:PORT: Ray itself tries for 20 minutes, deaf to signals."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):  # auto: Ray looks which processes are there
        return
    deadline = time.monotonic() + _KNOCK
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()
            return
        except OSError as exc:
            if time.monotonic() > deadline:
                raise ConnectionError(f"nothing answers at {address}: {exc}") from exc
        time.sleep(1)


def _start(options: dict[str, Any]) -> None:
    """While Ray starts, it has no stderr: what goes wrong is raised, and its C++ parts announce themselves there. What
    Python prints meanwhile still arrives."""
    shown, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    before = sys.stderr
    with os.fdopen(os.dup(2), "w", buffering=1) as elsewhere:
        if before is sys.__stderr__:  # one that was put there has a place of its own
            sys.stderr = elsewhere
        os.dup2(null, 2)
        try:
            ray.init(**options)
        finally:
            os.dup2(shown, 2)
            sys.stderr = before
            os.close(shown)
            os.close(null)
