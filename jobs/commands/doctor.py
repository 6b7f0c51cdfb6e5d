"""Whether a job can run, before it does: each thing it needs, looked at once, with what to do where it is missing."""

import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from io import StringIO

from cluster import imports, local
from cluster.nodes import Node
from cluster.survey import Machine, survey
from jobs import PACKAGES
from jobs.config import JobConfig
from jobs.driver.resources import NotYet, decide
from jobs.errors import JobError
from jobs.models.describe import describe_models
from jobs.output.identity import check_output
from jobs.sources.discover import discover
from jobs.storage import Storage

_PACKAGES = ("ray", "torch", "transformers", "pyarrow", "coyo-jobs")
_SKEW = 60.0  # seconds; S3 refuses signatures that are 15 minutes off


@dataclass(frozen=True)
class Finding:
    """One thing the job needs: what was seen, or what is wrong and what to do."""

    what: str
    ok: bool
    said: str
    hint: str = ""

    def __str__(self) -> str:
        lines = [f"{'ok  ' if self.ok else 'FAIL'}  {self.what:<10}{self.said}"]
        return "\n".join([*lines, *([f"                -> {self.hint}"] if self.hint else [])])


def examine(config: JobConfig) -> Iterator[Finding]:
    """Source, output, models and the Ray it would run on, one after the other; one that fails stops no other."""
    storage = Storage(config.storage)
    yield _try("source", lambda: discover(storage, config.source).said)
    yield _try("output", lambda: _writable(storage, config))
    for path in [path for path in (config.output.path, *config.source.paths) if path.startswith("s3://")][:1]:
        yield _try("clock", partial(_store_clock, storage, path))
    yield _try("models", lambda: _models(storage, config))
    try:
        with local.session(PACKAGES) as session:
            nodes, grows = session.nodes(), not session.own
            yield _try("resources", lambda: _resources(config, nodes, grows))
            yield from _machines(survey(_PACKAGES))
    except imports.ShadowedError as exc:
        yield Finding("ray", False, exc.message, exc.hint)
    except ConnectionError as exc:
        yield Finding("ray", False, f"cannot be reached: {exc}", "check RAY_ADDRESS, or unset it to run here")


def _try(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except JobError as exc:
        return Finding(what, False, exc.message, exc.hint)


def _resources(config: JobConfig, nodes: list[Node], grows: bool) -> str:
    """On a cluster, what is not there may still come."""
    try:
        return str(decide(config.compute, config.output, nodes, grows=grows))
    except NotYet as exc:
        if not grows:
            raise
        return f"{exc.message}; a run waits {config.compute.wait_seconds:,.0f} s for it (compute.wait_seconds)"


def _models(storage: Storage, config: JobConfig) -> str:
    with redirect_stderr(StringIO()):
        specs = describe_models(config, storage)
    return ", ".join(f"{spec.kind}: {spec.weights.name} at {spec.weights.revision[:19]}" for spec in specs)


def _writable(storage: Storage, config: JobConfig) -> str:
    check_output(storage, config)
    return f"{config.output.path} can be written"


def _store_clock(storage: Storage, path: str) -> str:
    skew = time.time() - parsedate_to_datetime(storage.date_of(path)).timestamp()
    if abs(skew) > _SKEW:
        raise JobError(f"this machine's clock is {skew:+.0f} s from the store's", "set it, for example with chrony")
    return f"{abs(skew):.0f} s from the store's"


def _machines(machines: list[Machine]) -> Iterator[Finding]:
    """Versions must be one on all of them: what the driver sends is unpickled there."""
    first = machines[0]
    for machine in machines:
        has = ", ".join(f"{amount:g} {name}" for name, amount in machine.resources.items() if name in ("CPU", "GPU"))
        if machine.error:
            yield Finding(
                "machine", False, f"{machine.address}: {machine.error}", "is it overloaded, or another Python?"
            )
            continue
        wrong = [
            f"{name} is {version} there and {first.versions[name]} here"
            for name, version in machine.versions.items()
            if version != first.versions[name]
        ]
        if abs(machine.skew) > _SKEW:
            wrong.append(f"its clock is {machine.skew:+.0f} s off")
        if machine.resources.get("GPU", 0) and not machine.gpus:
            wrong.append("Ray was told of GPUs, and nvidia-smi shows none")
        if machine.gpus and not machine.resources.get("GPU"):
            wrong.append(f"has {len(machine.gpus)} GPUs that Ray was not told of")
        said = f"{machine.address}: {has or 'no CPU for work'}" + (f", {machine.gpus[0]}" if machine.gpus else "")
        hint = "the same image, or the same environment, on every machine" if wrong else ""
        yield Finding("machine", not wrong, f"{said}{'; ' if wrong else ''}{'; '.join(wrong)}", hint)
    yield Finding("versions", True, ", ".join(f"{name} {version}" for name, version in first.versions.items()))
