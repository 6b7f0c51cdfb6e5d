"""Decoding for images that may kill or hang their decoder: one by one, in a process that can be lost.

A worker that dies takes its whole block with it. When Ray tries the block again, each of its images is decoded in a
child process with a deadline and a memory limit; the one that kills it is a reject, and all others have results.
"""

import faulthandler
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from jobs.config import DecodeConfig
from jobs.errors import ClusterError, Reason, Reject
from jobs.images.canvas import Canvas
from jobs.images.render import render

TRIES = 2  # a decoder may die for lack of memory at a bad moment
_PIXEL = 32  # bytes of memory for each of decode.max_pixels: eight copies, as Pillow holds them
_REST = 1 << 30  # bytes for what grows with something else
_SERVE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from jobs.images.isolated import serve; serve()"


class SubprocessDecoder:
    """Renders like jobs.images.render.render, painting exactly, one image at a time, in a process of its own."""

    def __init__(self, config: DecodeConfig, canvases: Sequence[Canvas], seconds: float) -> None:
        self._about, self._seconds = (config, tuple(canvases), seconds), seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, data: bytes) -> Any:
        """Raises Reject: what the decoder says, or decode_timeout, or decode_crashed."""
        code = 0
        for _ in range(TRIES):
            process = self._process or self._start()
            try:
                _send(process.stdin, data)
                answer = _receive(process.stdout)
            except (EOFError, BrokenPipeError):
                code = self._lost(process)
                if code == -signal.SIGALRM:
                    raise Reject(Reason.DECODE_TIMEOUT, f"decoding took longer than {self._seconds:g} s") from None
                continue
            if isinstance(answer, Reject):
                raise answer
            return answer
        raise Reject(Reason.DECODE_CRASHED, f"the decoder died {TRIES} times ({_how(code)})")

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        process = self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _SERVE, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the parent, which finishes its block
        )
        try:
            _send(process.stdin, self._about)
            _receive(process.stdout)  # ready: imports do not count against the first image
        except (EOFError, BrokenPipeError) as exc:
            how = _how(self._lost(process))
            raise ClusterError(f"a process that decodes cannot start ({how})", "is there memory for it?") from exc
        return process

    def _lost(self, process: subprocess.Popen[bytes]) -> int:
        code = process.wait()
        self.close()
        return code


def serve() -> None:
    """The child: answers each image with its canvases, or with the Reject; the kernel ends it at the deadline.

    A timer of its own ends it also when the parent is gone, and when a C library does not return.
    """
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a C library prints is no answer
    config, canvases, seconds = _receive(questions)
    _limit(config)
    _send(answers, "ready")
    while True:
        try:
            data = _receive(questions)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            answer: Any = render(data, config, canvases)
        except Reject as exc:
            answer = exc
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(answers, answer)


def _limit(config: DecodeConfig) -> None:
    """No core dumps; a deadline that cannot be blocked; and memory for the largest picture allowed, not for a bomb."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    if sys.platform != "linux":  # macOS refuses it
        return
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most, hard = used + _REST + _PIXEL * config.max_pixels, resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


class Deadline:
    """Ends this process when one image takes too long, so that the block is tried again, carefully.

    Nothing less helps against a C library that does not return. faulthandler watches from a thread that needs no GIL,
    which such a library may hold, and writes to stderr where the process hung.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def restart(self) -> None:
        """The next image begins."""
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=2)


@contextmanager
def deadline(seconds: float) -> Iterator[Deadline]:
    try:
        yield Deadline(seconds)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _send(stream: IO[bytes] | None, value: Any) -> None:
    assert stream is not None
    body = pickle.dumps(value, protocol=5)
    stream.write(len(body).to_bytes(8, "little") + body)
    stream.flush()


def _receive(stream: IO[bytes] | None) -> Any:
    assert stream is not None
    size = int.from_bytes(stream.read(8), "little")
    body = stream.read(size)
    if not body or len(body) < size:  # whoever was sending is gone
        raise EOFError
    return pickle.loads(body)


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
