"""What a run says while it goes on, by the standard library's logging: lines for people, or one JSON object a line.

Every event goes to the logger "coyo_jobs". A program that has configured logging gets the records, with `record.event`,
`record.run` and `record.fields`; where nobody has, lines come on stderr, as the command shows them.
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

FORMS = ("text", "json")
# Every event: its meaning, and the fields it has beside `time`, `level`, `event`, `message` and `run`.
EVENTS = {
    "source": ("what the source holds and how it is read", "shards, format"),
    "model": ("a checkpoint that was resolved and checked", "weights, revision"),
    "forwards": ("the names of the variables that `submit` forwards", ""),
    "recipe": ("where `submit` wrote the resolved recipe", ""),
    "submitted": ("a run was handed to a cluster", "submission"),
    "plan": ("what is left to read, and what runs on what", "shards, shards_left"),
    "waiting": ("the run cannot begin yet; the message says what it waits for", "seconds"),
    "progress": (
        "where the run is, every 30 s; `rows` counts input rows, `rejects` those of them without a result",
        "state, rows, total, rejects, reasons, rate, seconds, seconds_left, shards_read, shards_left, waiting",
    ),
    "shard": (
        "a shard has its last result or reject; without the rows that an earlier run committed",
        "shard, rows, rejects, reasons, damage, seconds",
    ),
    "set_aside": ("a shard that storage would not give; the next run tries it again", "shard"),
    "note": ("something that needs no action now", "shard"),
    "output": ("something that was found or changed in the output", ""),
    "retry": ("rejected rows that will be computed again", "rows"),
    "export": ("how far an export is, and what it leaves out", ""),
    "join": ("how far a join is, and how it matches rows", ""),
    "ended": ("a submission that was waited for has ended", "submission, code"),
    "finished": (
        "the last event of a run that ended well",
        "output, shards, rows, rejects, reasons, damaged_shards, seconds",
    ),
    "stopped": ("the last event of a run that was stopped; it has the fields of progress, too", "error, hint, code"),
    "error": ("the last event of a command that failed", "error, hint, code, shard, worst_shards"),
    "other": ("what a library said, with the logger it came from", "logger"),
}
LOGGER = logging.getLogger("coyo_jobs")
_STRAY = logging.getLogger("stderr")  # what others print there
_STRAY.setLevel(logging.INFO)
_run: ContextVar[str] = ContextVar("run", default="")


def begin(run: str) -> None:
    """What is said from here on is this run's."""
    _run.set(run)


def say(event: str, message: str, *, level: int = logging.INFO, line: str = "", **fields: Any) -> None:
    """`event` is a short name that never changes; `line` is what people see, where it is more than both of them.

    People see what is INFO and above.
    """
    about = {"event": event, "line": line or f"{event:<10}{message}", "run": _run.get(), "fields": fields}
    (LOGGER if LOGGER.hasHandlers() else _UNASKED).log(level, message, extra=about, stacklevel=2)


def for_people() -> bool:
    """Whether somebody may be looking at lines on stderr."""
    return not LOGGER.hasHandlers() or any(isinstance(handler, _Lines) for handler in LOGGER.handlers)


@contextmanager
def to_stderr(form: str) -> Iterator[None]:
    """All that a command says, in this form. With json, also what libraries log, warn and print there, and a traceback:
    only what a C library writes as it takes the process down is none."""
    begin("")
    with _json() if form == "json" else _text():
        yield


class _Lines(logging.StreamHandler[Any]):
    """On what is stderr right now: a live line stands below what is printed, and Ray's start borrows the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.setLevel(logging.INFO)

    def format(self, record: logging.LogRecord) -> str:
        return str(getattr(record, "line", record.getMessage()))

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", "") != "finished":  # the summary, on stdout, says it
            self.stream = sys.stderr
            super().emit(record)


_UNASKED = logging.Logger(LOGGER.name, logging.INFO)
_UNASKED.addHandler(_Lines())


@contextmanager
def _text() -> Iterator[None]:
    handler, level = _Lines(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)


@contextmanager
def _json() -> Iterator[None]:
    """A stream of its own, because Ray's start takes stderr away for a moment."""
    stream = os.fdopen(os.dup(2), "w", buffering=1)
    root, handler, level = logging.getLogger(), _Objects(stream), LOGGER.level
    before, hook, sys.excepthook = sys.stderr, sys.excepthook, partial(_uncaught, handler)
    root.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    sys.stderr = stray = _Stray(stream)
    try:
        yield
    finally:
        stray.write("\n")
        sys.stderr = before
        logging.captureWarnings(False)
        LOGGER.setLevel(level)
        root.removeHandler(handler)
    sys.excepthook = hook  # after an exception it stays: Python is about to call it


class _Event(NamedTuple):
    """What every event has; `event` is "other" for what is none of ours."""

    time: str
    level: str
    event: str
    message: str
    run: str


class _Objects(logging.StreamHandler[IO[str]]):
    """An event and its own fields as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        event = _Event(
            time=datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            level=record.levelname.lower(),
            event=getattr(record, "event", "other"),
            message=record.getMessage(),
            run=getattr(record, "run", _run.get()),
        )
        said = event._asdict() | getattr(record, "fields", {"logger": record.name})
        if record.exc_info:
            said["traceback"] = logging.Formatter().formatException(record.exc_info)
        return json.dumps(said, default=str)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, its name in logging
        """Whoever read stderr is gone: the run goes on. logging would say so on stderr, and that comes here again."""


class _Stray(io.TextIOBase):
    """What others print on stderr, a line an event. One that is an event already, as of a submission that is followed,
    stays as it is; of a progress bar, which overwrites itself, the last state is left."""

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
                _STRAY.info(line)
        return len(text)


def _is_event(line: str) -> bool:
    try:
        said = json.loads(line)
    except ValueError:
        return False
    return isinstance(said, dict) and "event" in said


def _uncaught(
    handler: logging.Handler, kind: type[BaseException], exc: BaseException, trace: TracebackType | None
) -> None:
    about = {"event": "error", "run": _run.get(), "fields": {"code": 1, "error": kind.__name__}}
    handler.handle(
        LOGGER.makeRecord(LOGGER.name, logging.CRITICAL, "", 0, str(exc), (), (kind, exc, trace), extra=about)
    )
