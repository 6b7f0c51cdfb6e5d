"""Progress of a run: a live line on a terminal, else periodic log lines; and `_progress.json` in the output."""

import json
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from jobs import log
from jobs.driver.run_state import RunState
from jobs.driver.tasks import Work
from jobs.errors import OutputError
from jobs.output.layout import PROGRESS
from jobs.storage import Storage
from jobs.storage.paths import join_path

_LINE_EVERY, _EVENT_EVERY = 10.0, 30.0  # seconds
STALE_SECONDS = 60.0  # without an update, after which a run counts as dead


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    `total` is the expected number of rows, 0 while unknown; `about` marks it as an estimate. `seconds` count from the
    start of the run. `rate` is in rows/s. `waiting` names what the run waits for. `updated` is in seconds since 1970.
    """

    run: str
    state: str
    rows: int
    total: int
    about: bool
    rate: float
    seconds: float
    seconds_left: float | None
    shards_read: int
    shards: int
    reasons: dict[str, int]
    stages: dict[str, Any] = field(default_factory=dict)
    waiting: str = ""
    host: str = field(default_factory=socket.gethostname)
    updated: float = field(default_factory=time.time)

    @property
    def counts(self) -> dict[str, Any]:
        """Fields of the `progress` log event. `rows` are all finished rows, including `rejects`."""
        shown = ("state", "rows", "total", "reasons", "rate", "seconds", "seconds_left", "shards_read", "waiting")
        counts = {n: round(v, 2) if isinstance(v := getattr(self, n), float) else v for n in shown}
        return counts | {"rejects": sum(self.reasons.values()), "shards_left": self.shards - self.shards_read}

    def __str__(self) -> str:
        if self.state == "waiting":
            return f"{self.seconds:.0f} s  waiting: {self.waiting}"
        if not self.rate and self.state == "running" and not self.waiting:
            return f"{self.seconds:.0f} s  starting: loading models"
        total = f" of {'about ' * self.about}{self.total:,}" if self.total else ""
        parts = [f"{self.rows:,}{total} rows", f"{self.rate:,.1f} rows/s", f"{sum(self.reasons.values()):,} rejects"]
        parts.append(f"{self.shards_read:,} of {self.shards:,} shards read")
        if self.seconds_left is not None and self.state == "running":
            parts.append(f"{format_duration(self.seconds_left)} left")
        if self.waiting:
            parts.append(f"waiting for {self.waiting}")
        return "  ".join(parts if self.state == "running" else [self.state, *parts])


def waiting_progress(run: str, waiting: str, seconds: float) -> Progress:
    """Return the progress of a run that waits for resources."""
    return Progress(run, "waiting", 0, 0, False, 0.0, seconds, None, 0, 0, {}, waiting=waiting)


def measure(*, run: str, state: str, seen: RunState, work: Work, seconds: float) -> Progress:
    """Return the progress of a run. It counts annotated rows, as committed rows only grow by whole objects."""
    rows = seen.rows
    total, about = _expected(seen, work)
    rate = rows / seconds if seconds else 0.0
    return Progress(
        run=run,
        state=state,
        rows=work.rows_done + rows,
        total=work.rows_done + total if total else 0,
        about=about,
        rate=rate,
        seconds=seconds,
        seconds_left=max(0, total - rows) / rate if total and rate else None,
        shards_read=work.shards_done + seen.finished_shards,
        shards=work.shards,
        reasons=dict(seen.reasons),
        stages={name: asdict(tally) for name, tally in seen.stages.items()},
    )


def _expected(seen: RunState, work: Work) -> tuple[int, bool]:
    """Return the rows that this run will process, or 0 while unknown, and whether that is an estimate from bytes."""
    if seen.finished_shards >= work.shards - work.shards_done:
        return seen.finished_rows, False
    if seen.finished_bytes:
        return round(seen.finished_rows * work.bytes_left / seen.finished_bytes), True
    return 0, False


def publish(storage: Storage, output: str, part: str, now: Progress) -> None:
    """Write `_progress.json`, with the suffix of the part in its name."""
    storage.put(join_path(output, f"{PROGRESS}{part}.json"), json.dumps(asdict(now), indent=1).encode())


def read_progress(storage: Storage, output: str) -> list[Progress]:
    """Return the last progress of each part. Raises OutputError if a progress file is unreadable."""
    entries = [entry for entry in storage.list_files(output) if entry.path.rpartition("/")[2].startswith(PROGRESS)]
    return [_read(storage, entry.path) for entry in entries]


def _read(storage: Storage, path: str) -> Progress:
    try:
        return Progress(**json.loads(storage.read(path)))
    except (ValueError, TypeError) as exc:
        raise OutputError(
            f"{path}: not written by coyo-jobs ({exc})", "delete it; the next run writes a new one"
        ) from exc


class Display:
    """Shows progress: a live line on a terminal, else log lines at intervals."""

    def __init__(self) -> None:
        self._logged, people = time.monotonic(), log.writes_lines()
        self._every = _LINE_EVERY if people else _EVENT_EVERY
        console = Console(stderr=True)
        live = people and sys.stderr.isatty()
        self._live = Live(console=console, refresh_per_second=4, transient=True) if live else None

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, now: Progress) -> None:
        if self._live:
            self._live.update(Text(str(now), no_wrap=True, overflow="ellipsis"))
        elif time.monotonic() - self._logged >= self._every:
            self._logged = time.monotonic()
            log.say("progress", str(now), line=str(now), **now.counts)


def format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
