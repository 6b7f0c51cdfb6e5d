"""Where a job is, read from its output by anybody, anywhere."""

import json
import time
from dataclasses import asdict

from jobs.driver.progress import STALE, Progress, clock, read_all
from jobs.errors import OutputError
from jobs.output.identity import resolve_output
from jobs.output.layout import SUCCESS
from jobs.storage import Storage
from jobs.storage.paths import join_path

_AT_WORK = ("waiting", "running", "stopping")


def status(output: str, *, as_json: bool, storage: Storage | None = None, since: float = 0.0) -> tuple[str, bool]:
    """What to print, and whether all is well: finished, or running with a recent sign of life. What was last heard of
    before `since`, in seconds since 1970, is no bad sign. Raises OutputError."""
    if storage is None:
        storage, output = resolve_output(output)
    parts = read_all(storage, output)
    if not parts:
        raise OutputError(f"{output}: no progress there", "has a job been run into it?")
    done = storage.exists(join_path(output, SUCCESS))
    healthy = done or all(_alive(part) or part.updated < since for part in parts)
    if as_json:
        return json.dumps({"finished": done, "parts": [asdict(part) for part in parts]}, indent=1), healthy
    lines = [f"{output}: {'finished' if done else 'not finished'}"]
    for part in parts:
        lines.append(f"  {part.run} on {part.host}  {part}")
        lines += [f"    rejected {count:>9,}  {reason}" for reason, count in part.reasons.items()]
        if part.state in _AT_WORK and not _alive(part):
            lines.append(f"    no sign of life for {clock(time.time() - part.updated)}: run the same command to go on")
    return "\n".join(lines), healthy


def _alive(part: Progress) -> bool:
    return part.state == "finished" or (part.state in _AT_WORK and time.time() - part.updated < STALE)
