"""Show the progress of a job from its output folder, on any machine."""

import json
import time
from dataclasses import asdict

from jobs.driver.progress import STALE_SECONDS, Progress, format_duration, read_progress
from jobs.errors import OutputError
from jobs.output.identity import resolve_output
from jobs.output.layout import SUCCESS
from jobs.storage import Storage
from jobs.storage.paths import join_path

_ACTIVE = ("waiting", "running", "stopping")


def status(output: str, *, as_json: bool, storage: Storage | None = None, since: float = 0.0) -> tuple[str, bool]:
    """Return the text to print, and whether the job is finished or alive.

    A part whose last update is older than `since`, in seconds since 1970, counts as alive: its new run may not have
    published yet. Raises OutputError if the output has no progress.
    """
    if storage is None:
        storage, output = resolve_output(output)
    parts = read_progress(storage, output)
    if not parts:
        raise OutputError(f"{output}: no progress found", "has a job been run with this output?")
    done = storage.exists(join_path(output, SUCCESS))
    healthy = done or all(_alive(part) or part.updated < since for part in parts)
    if as_json:
        return json.dumps({"finished": done, "parts": [asdict(part) for part in parts]}, indent=1), healthy
    lines = [f"{output}: {'finished' if done else 'not finished'}"]
    for part in parts:
        lines.append(f"  {part.run} on {part.host}  {part}")
        lines += [f"    rejected {count:>9,}  {reason}" for reason, count in part.reasons.items()]
        if part.state in _ACTIVE and not _alive(part):
            silent = format_duration(time.time() - part.updated)
            lines.append(f"    no sign of life for {silent}: run the same command to continue")
    return "\n".join(lines), healthy


def _alive(part: Progress) -> bool:
    return part.state == "finished" or (part.state in _ACTIVE and time.time() - part.updated < STALE_SECONDS)
