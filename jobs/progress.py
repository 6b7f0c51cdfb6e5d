"""What a person sees while a job runs: one live line on a terminal, a plain line now and then elsewhere. On stderr."""

import sys
import threading
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from jobs.errors import Stage
from jobs.meter import Snapshot
from jobs.plan import Work

_LIVE_EVERY, _PLAIN_EVERY = 0.5, 10.0  # seconds


class Progress:
    """Shows `look()` until it is closed. `look` gives the counts so far, or None when they cannot be had right now."""

    def __init__(self, work: Work, look: Callable[[], Snapshot | None]) -> None:
        self._work, self._look = work, look
        self._since = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        self.seen = Snapshot()

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        self.seen = self._look() or self.seen

    def _show(self) -> None:
        if not sys.stderr.isatty():
            while not self._closed.wait(_PLAIN_EVERY):
                print(self._line(), file=sys.stderr, flush=True)
            return
        with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
            while not self._closed.wait(_LIVE_EVERY):
                live.update(Text(self._line(), no_wrap=True, overflow="ellipsis"))

    def _line(self) -> str:
        self.seen = self._look() or self.seen
        return line(self.seen, self._work, time.monotonic() - self._since)


def line(seen: Snapshot, work: Work, seconds: float) -> str:
    """Committed rows come in whole objects; annotated ones move, so those are shown."""
    rows = seen.stages[Stage.ANNOTATE.value].rows if Stage.ANNOTATE.value in seen.stages else 0
    if not rows:
        return f"{seconds:.0f} s  starting: the models are loading"
    rate = rows / seconds
    shards_left = work.shards - work.shards_done
    if seen.finished_shards >= shards_left and Stage.SOURCE.value in seen.stages:
        total, about = seen.stages[Stage.SOURCE.value].rows, ""
    elif seen.finished_bytes:
        total, about = round(seen.finished_rows * work.bytes_left / seen.finished_bytes), "about "
    else:
        total, about = 0, ""
    rejects = sum(seen.reasons.values())
    parts = [
        f"{work.rows_done + rows:,} of {about}{work.rows_done + total:,} rows"
        if total
        else f"{work.rows_done + rows:,} rows"
    ]
    parts += [
        f"{rate:,.1f} rows/s",
        f"{rejects:,} rejects",
        f"{work.shards_done + seen.finished_shards:,} of {work.shards:,} shards read",
    ]
    if total:
        parts.append(f"{_clock(max(0, total - rows) / rate)} left")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
