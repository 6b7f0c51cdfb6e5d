"""The events of a run through the standard logging module: readable lines, or one JSON object per line.

Every event goes to the logger "coyo_jobs". A program that has configured logging receives the records, with
`record.event`, `record.run` and `record.fields`; otherwise events appear as lines on stderr.
"""

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import IO, Any, NamedTuple

FORMATS = ("text", "json")
# Each event: its meaning, and its fields besides `time`, `level`, `event`, `message` and `run`.
EVENTS = {
    "source": ("what the source contains and how it is read", "shards, format"),
    "model": ("a checkpoint was resolved and checked", "weights, revision"),
    "forwards": ("names of the environment variables that `submit` forwards", ""),
    "recipe": ("where `submit` wrote the resolved recipe", ""),
    "submitted": ("a run was submitted to a cluster", "submission"),
    "plan": ("how much is left to read, and which resources are used", "shards, shards_left"),
    "waiting": ("the run cannot start yet; the message names what is missing", "seconds"),
    "progress": (
        "progress, every 30 s; `rows` counts input rows, `rejects` those of them without a result",
        "state, rows, total, rejects, reasons, rate, seconds, seconds_left, shards_read, shards_left, waiting",
    ),
    "shard": (
        "a shard is complete; the counts exclude rows that an earlier run committed",
        "shard, rows, rejects, reasons, damage, seconds",
    ),
    "set_aside": ("storage could not deliver a shard; the next run tries again", "shard"),
    "note": ("information that needs no action now", "shard"),
    "output": ("something was found or changed in the output", ""),
    "retry": ("rejected rows will be computed again", "rows"),
    "export": ("progress of an export, and what it leaves out", ""),
    "join": ("progress of a join, and how it matches rows", ""),
    "ended": ("a submission that the command waited for has ended", "submission, code"),
    "finished": (
        "last event of a successful run",
        "output, shards, rows, rejects, reasons, damaged_shards, seconds",
    ),
    "stopped": ("last event of a stopped run; also has the fields of progress", "error, hint, code"),
    "error": ("last event of a failed command", "error, hint, code, shard, worst_shards"),
    "other": ("a message of a library, with the name of its logger", "logger"),
}
LOGGER = logging.getLogger("coyo_jobs")
_STDERR_LOGGER = logging.getLogger("stderr")  # what other code prints to stderr
_STDERR_LOGGER.setLevel(logging.INFO)
_run: ContextVar[str] = ContextVar("run", default="")


def set_run(run: str) -> None:
    """Attribute all further events to this run."""
    _run.set(run)


def say(event: str, message: str, *, level: int = logging.INFO, line: str = "", **fields: Any) -> None:
    """Log an event. `event` is a short name that never changes. `line` replaces "event message" in readable output.

    Readable output has INFO and above; JSON output has all levels.
    """
    extra = {"event": event, "line": line or f"{event:<10}{message}", "run": _run.get(), "fields": fields}
    (LOGGER if LOGGER.hasHandlers() else _UNCONFIGURED).log(level, message, extra=extra, stacklevel=2)


def writes_lines() -> bool:
    """Whether events appear as lines on stderr, where a person may read them."""
    return not LOGGER.hasHandlers() or any(isinstance(handler, _LineHandler) for handler in LOGGER.handlers)


@contextmanager
def to_stderr(form: str) -> Iterator[None]:
    """Write everything that a command reports to stderr in this format, "text" or "json".

    With json, log records, warnings, prints and tracebacks of libraries become events too. The one exception is what
    a C library writes when it crashes the process.
    """
    set_run("")
    with _json() if form == "json" else _text():
        yield


class _LineHandler(logging.StreamHandler[Any]):
    """Writes lines to the current sys.stderr, which the live progress line replaces, and Ray while it starts."""

    def __init__(self) -> None:
        super().__init__()
        self.setLevel(logging.INFO)

    def format(self, record: logging.LogRecord) -> str:
        return str(getattr(record, "line", record.getMessage()))

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", "") != "finished":  # the summary on stdout has it
            self.stream = sys.stderr
            super().emit(record)


_UNCONFIGURED = logging.Logger(LOGGER.name, logging.INFO)
_UNCONFIGURED.addHandler(_LineHandler())


@contextmanager
def _text() -> Iterator[None]:
    handler, level = _LineHandler(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)


@contextmanager
def _json() -> Iterator[None]:
    """Write JSON to a duplicate of stderr, because Ray redirects stderr while it starts."""
    stream = os.fdopen(os.dup(2), "w", buffering=1)
    root, handler, level = logging.getLogger(), _JsonHandler(stream), LOGGER.level
    stderr, excepthook, sys.excepthook = sys.stderr, sys.excepthook, partial(_uncaught, handler)
    root.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    sys.stderr = capture = _StderrCapture(stream)
    try:
        yield
    finally:
        capture.write("\n")
        sys.stderr = stderr
        logging.captureWarnings(False)
        LOGGER.setLevel(level)
        root.removeHandler(handler)
    sys.excepthook = excepthook  # not after an exception: Python is about to call ours


class _Event(NamedTuple):
    """The fields of every event. `event` is "other" for records of other loggers."""

    time: str
    level: str
    event: str
    message: str
    run: str


class _JsonHandler(logging.StreamHandler[IO[str]]):
    """Writes each event and its fields as one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        event = _Event(
            time=datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            level=record.levelname.lower(),
            event=getattr(record, "event", "other"),
            message=record.getMessage(),
            run=getattr(record, "run", _run.get()),
        )
        record_fields = event._asdict() | getattr(record, "fields", {"logger": record.name})
        if record.exc_info:
            record_fields["traceback"] = logging.Formatter().formatException(record.exc_info)
        return json.dumps(record_fields, default=str)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, its name in logging
        """Ignore a closed stderr, so that the run continues. Logging the error would call this method again."""


class _StderrCapture(io.TextIOBase):
    """Turns each line printed to stderr into an event.

    A line that is an event already, from the log of a followed submission, is passed through. Of a progress bar, which
    overwrites itself with carriage returns, only the last state is kept.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._rest = stream, ""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        *lines, rest = (self._rest + text).split("\n")
        self._rest = rest.rpartition("\r")[2]
        for line in (line.rpartition("\r")[2] for line in lines):
            if _is_event(line):
                self._stream.write(f"{line}\n")
            elif line.strip():
                _STDERR_LOGGER.info(line)
        return len(text)


def _is_event(line: str) -> bool:
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return isinstance(value, dict) and "event" in value


def _uncaught(
    handler: logging.Handler, kind: type[BaseException], exc: BaseException, trace: TracebackType | None
) -> None:
    extra = {"event": "error", "run": _run.get(), "fields": {"code": 1, "error": kind.__name__}}
    handler.handle(
        LOGGER.makeRecord(LOGGER.name, logging.CRITICAL, "", 0, str(exc), (), (kind, exc, trace), extra=extra)
    )
