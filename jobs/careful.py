"""Decoding for images that may kill or hang their decoder: one by one, in a process that can be lost.

A worker that dies takes its whole block with it. When Ray tries the block again, each of its images is decoded in a
child process with a deadline and a memory limit; the one that kills it is a reject, and all others have results.
"""

import json
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from jobs.canvas import Canvas
from jobs.config import DecodeConfig
from jobs.decode import render
from jobs.errors import Reason, Reject

TRIES = 2  # a decoder may die for lack of memory at a bad moment
MEMORY = 6 << 30  # bytes of address space: several copies of the largest picture allowed, and the libraries
_SERVE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from jobs.careful import serve; serve()"


class Child:
    """Renders like jobs.decode.render, one image at a time, in a process of its own."""

    def __init__(self, config: DecodeConfig, canvases: Sequence[Canvas], seconds: float) -> None:
        self._about, self._seconds = (config, tuple(canvases)), seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, data: bytes) -> Any:
        """Raises Reject: what the decoder says, or decode_timeout, or decode_crashed."""
        for _ in range(TRIES):
            process = self._started()
            try:
                _send(process.stdin, data)
                assert process.stdout is not None
                if not select.select([process.stdout], [], [], self._seconds)[0]:
                    self.close()
                    raise Reject(Reason.DECODE_TIMEOUT, f"decoding took longer than {self._seconds:g} s")
                answer = _receive(process.stdout)
            except (EOFError, BrokenPipeError):
                died = process.wait()
                self.close()
                continue
            if isinstance(answer, Reject):
                raise answer
            return answer
        raise Reject(Reason.DECODE_CRASHED, f"the decoder died {TRIES} times ({_how(died)})")

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [sys.executable, "-c", _SERVE, json.dumps(sys.path)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            _send(self._process.stdin, self._about)
            _receive(self._process.stdout)  # ready: imports do not count against the first image
        return self._process


def serve() -> None:
    """The child: answers each image with its canvases, or with the Reject."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    config, canvases = _receive(sys.stdin.buffer)
    _send(sys.stdout.buffer, "ready")
    while True:
        try:
            data = _receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer: Any = render(data, config, canvases)
        except Reject as exc:
            answer = exc
        _send(sys.stdout.buffer, answer)


@contextmanager
def deadline(seconds: float) -> Iterator["Deadline"]:
    """Ends this process when one image takes too long, so that the block is tried again, carefully.

    Nothing less helps against a C library that does not return.
    """
    watch = Deadline(seconds)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.over.set()
        thread.join()


class Deadline:
    def __init__(self, seconds: float) -> None:
        self._seconds, self._began = seconds, time.monotonic()
        self.over = threading.Event()

    def restart(self) -> None:
        """The next image begins."""
        self._began = time.monotonic()

    def run(self) -> None:
        while not self.over.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() - self._began > self._seconds:
                os._exit(1)


def _send(stream: IO[bytes] | None, value: Any) -> None:
    assert stream is not None
    body = pickle.dumps(value, protocol=5)
    stream.write(len(body).to_bytes(8, "little") + body)
    stream.flush()


def _receive(stream: IO[bytes] | None) -> Any:
    assert stream is not None
    size = stream.read(8)
    body = stream.read(int.from_bytes(size, "little")) if len(size) == 8 else b""
    if not body:
        raise EOFError
    return pickle.loads(body)


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
