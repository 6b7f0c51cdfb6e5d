"""What a person sees while a job runs: one live line on a terminal, elsewhere a line or an event now and then; and
`_progress.json` in the output, for everybody who is not there.
"""

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
from jobs.storage import Storage
from jobs.storage.paths import join_path

_PLAIN_EVERY, _EVENT_EVERY = 10.0, 30.0  # seconds
STALE = 60.0  # seconds without a sign of life


@dataclass(frozen=True)
class Progress:
    """Where a run is. `total` is 0 while unknown; `about` says it is an estimate; seconds are since the run began.
    `waiting` is what it waits for, as GPUs that are still coming."""

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
        """For a log: `rows` are all that are done, with the `rejects` among them."""
        shown = ("state", "rows", "total", "reasons", "rate", "seconds", "seconds_left", "shards_read", "waiting")
        counts = {n: round(v, 2) if isinstance(v := getattr(self, n), float) else v for n in shown}
        return counts | {"rejects": sum(self.reasons.values()), "shards_left": self.shards - self.shards_read}

    def __str__(self) -> str:
        if self.state == "waiting":
            return f"{self.seconds:.0f} s  waiting: {self.waiting}"
        if not self.rate and self.state == "running" and not self.waiting:
            return f"{self.seconds:.0f} s  starting: the models are loading"
        total = f" of {'about ' * self.about}{self.total:,}" if self.total else ""
        parts = [f"{self.rows:,}{total} rows", f"{self.rate:,.1f} rows/s", f"{sum(self.reasons.values()):,} rejects"]
        parts.append(f"{self.shards_read:,} of {self.shards:,} shards read")
        if self.seconds_left is not None and self.state == "running":
            parts.append(f"{clock(self.seconds_left)} left")
        if self.waiting:
            parts.append(f"waiting for {self.waiting}")
        return "  ".join(parts if self.state == "running" else [self.state, *parts])


def before(run: str, waiting: str, seconds: float) -> Progress:
    """Of a run that cannot begin yet."""
    return Progress(run, "waiting", 0, 0, False, 0.0, seconds, None, 0, 0, {}, waiting=waiting)


def progress(*, run: str, state: str, seen: RunState, work: Work, seconds: float) -> Progress:
    """Committed rows come in whole objects; annotated ones move, so those are counted."""
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
    """Rows this run will see in all, and whether that is an estimate from the bytes still to read; 0 while unknown."""
    if seen.finished_shards >= work.shards - work.shards_done:
        return seen.finished_rows, False
    if seen.finished_bytes:
        return round(seen.finished_rows * work.bytes_left / seen.finished_bytes), True
    return 0, False


def publish(storage: Storage, output: str, part: str, now: Progress) -> None:
    storage.put(join_path(output, f"_progress{part}.json"), json.dumps(asdict(now), indent=1).encode())


def read_all(storage: Storage, output: str) -> list[Progress]:
    """Every part's last word."""
    found = [entry for entry in storage.tree(output) if entry.path.rpartition("/")[2].startswith("_progress")]
    return [_read(storage, entry.path) for entry in found]


def _read(storage: Storage, path: str) -> Progress:
    try:
        return Progress(**json.loads(storage.read(path)))
    except (ValueError, TypeError) as exc:
        raise OutputError(
            f"{path}: not written by coyo-jobs ({exc})", "the next run writes it again; or delete it"
        ) from exc


class Display:
    """The live line, or what stands for it."""

    def __init__(self) -> None:
        self._said, people = time.monotonic(), log.for_people()
        self._every = _PLAIN_EVERY if people else _EVENT_EVERY
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
        elif time.monotonic() - self._said >= self._every:
            self._said = time.monotonic()
            log.say("progress", str(now), line=str(now), **now.counts)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
