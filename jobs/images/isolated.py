"""Isolated decoding: a child process decodes one image at a time, because an image may crash or hang its decoder.

When a decode worker dies, its whole block is lost. Ray retries the block, and the retry decodes each image in a child
process with a deadline and a memory limit. The image that kills the child becomes a reject; the others get results.
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

MAX_ATTEMPTS = 2  # a good image's decoder may die once, for lack of memory
_BYTES_PER_PIXEL = 32  # memory for each of decode.max_pixels: eight copies in Pillow's 4 bytes
_BASE_BYTES = 1 << 30  # memory that does not grow with the pixels
_SERVE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from jobs.images.isolated import serve; serve()"


class SubprocessDecoder:
    """Call `jobs.images.render.render` (exact, not fast) in a child process, one image at a time.

    `seconds` is the deadline for one image. The child starts at the first call, and again after it died.
    """

    def __init__(self, config: DecodeConfig, canvases: Sequence[Canvas], seconds: float) -> None:
        self._setup, self._seconds = (config, tuple(canvases), seconds), seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, data: bytes) -> Any:
        """Return one uint8 [height, width, 3] per canvas.

        Raises the decoder's own Reject, or a Reject with decode_timeout or decode_crashed; ClusterError if no child
        can start.
        """
        code = 0
        for _ in range(MAX_ATTEMPTS):
            process = self._process or self._start()
            try:
                _send(process.stdin, data)
                answer = _receive(process.stdout)
            except (EOFError, BrokenPipeError):
                code = self._reap(process)
                if code == -signal.SIGALRM:
                    raise Reject(Reason.DECODE_TIMEOUT, f"decoding took longer than {self._seconds:g} s") from None
                continue
            if isinstance(answer, Reject):
                raise answer
            return answer
        raise Reject(Reason.DECODE_CRASHED, f"the decoder died {MAX_ATTEMPTS} times ({_describe_exit(code)})")

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
            start_new_session=True,  # Ctrl-C must reach only the parent, which finishes its block
        )
        try:
            _send(process.stdin, self._setup)
            _receive(process.stdout)  # "ready": the first image's deadline must not include the imports
        except (EOFError, BrokenPipeError) as exc:
            how = _describe_exit(self._reap(process))
            raise ClusterError(
                f"the isolated decoder process cannot start ({how})", "check that the node has free memory"
            ) from exc
        return process

    def _reap(self, process: subprocess.Popen[bytes]) -> int:
        code = process.wait()
        self.close()
        return code


def serve() -> None:
    """Run the child: answer each image with its canvases or with the Reject.

    The child sets a kernel timer for each image. The timer ends it even if the parent is gone or a C library hangs.
    """
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a C library that prints to stdout must not corrupt the answers
    config, canvases, seconds = _receive(requests)
    _set_limits(config)
    _send(answers, "ready")
    while True:
        try:
            data = _receive(requests)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            answer: Any = render(data, config, canvases)
        except Reject as exc:
            answer = exc
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(answers, answer)


def _set_limits(config: DecodeConfig) -> None:
    """Disable core dumps, unblock the deadline's signal, and limit memory to what decode.max_pixels needs."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    if sys.platform != "linux":  # macOS does not allow RLIMIT_AS
        return
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit, hard = used + _BASE_BYTES + _BYTES_PER_PIXEL * config.max_pixels, resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


class Deadline:
    """End this process if one image takes too long; Ray then retries the block, isolated.

    Only the end of the process stops a C library that hangs. faulthandler watches from a thread that needs no GIL
    (the library may hold it), and writes the traceback to stderr.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def restart(self) -> None:
        """Start the clock for the next image."""
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=2)


@contextmanager
def deadline(seconds: float) -> Iterator[Deadline]:
    """Yield a Deadline of `seconds` for each image, and cancel it at the end of the block."""
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
    if not body or len(body) < size:  # the sender died
        raise EOFError
    return pickle.loads(body)


def _describe_exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
