"""Check that a job can run: source, output, clocks, models, resources and machines, with a fix for each problem."""

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
from jobs.driver.resources import InsufficientResources, choose_resources
from jobs.errors import JobError
from jobs.models.describe import describe_models
from jobs.output.identity import check_output
from jobs.sources.discover import discover
from jobs.storage import Storage

_PACKAGES = ("ray", "torch", "transformers", "pyarrow", "coyo-jobs")
_MAX_SKEW = 60.0  # seconds; S3 refuses signatures that are 15 minutes off


@dataclass(frozen=True)
class Finding:
    """The result of one check. `hint` says how to fix a problem."""

    subject: str
    ok: bool
    message: str
    hint: str = ""

    def __str__(self) -> str:
        lines = [f"{'ok  ' if self.ok else 'FAIL'}  {self.subject:<10}{self.message}"]
        return "\n".join([*lines, *([f"                -> {self.hint}"] if self.hint else [])])


def examine(config: JobConfig) -> Iterator[Finding]:
    """Check source, output, models and the Ray to run on. Continue after a failed check."""
    storage = Storage(config.storage)
    yield _try("source", lambda: discover(storage, config.source).description)
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


def _try(subject: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, check())
    except JobError as exc:
        return Finding(subject, False, exc.message, exc.hint)


def _resources(config: JobConfig, nodes: list[Node], grows: bool) -> str:
    """Describe the resources. On a cluster that may grow, missing resources are not a failure."""
    try:
        return str(choose_resources(config.compute, config.output, nodes, grows=grows))
    except InsufficientResources as exc:
        if not grows:
            raise
        return f"{exc.message}; a run waits up to {config.compute.wait_seconds:,.0f} s (compute.wait_seconds)"


def _models(storage: Storage, config: JobConfig) -> str:
    with redirect_stderr(StringIO()):
        specs = describe_models(config, storage)
    return ", ".join(f"{spec.kind}: {spec.weights.name} at {spec.weights.revision[:19]}" for spec in specs)


def _writable(storage: Storage, config: JobConfig) -> str:
    check_output(storage, config)
    return f"{config.output.path} is writable"


def _store_clock(storage: Storage, path: str) -> str:
    skew = time.time() - parsedate_to_datetime(storage.server_date(path)).timestamp()
    if abs(skew) > _MAX_SKEW:
        raise JobError(
            f"this machine's clock is {skew:+.0f} s from the store's", "synchronise it, for example with chrony"
        )
    return f"{abs(skew):.0f} s from the store's"


def _machines(machines: list[Machine]) -> Iterator[Finding]:
    """Compare each machine with the driver's. Versions must be equal: workers unpickle what the driver sends."""
    first = machines[0]
    for machine in machines:
        has = ", ".join(f"{amount:g} {name}" for name, amount in machine.resources.items() if name in ("CPU", "GPU"))
        if machine.error:
            yield Finding(
                "machine",
                False,
                f"{machine.address}: {machine.error}",
                "is it overloaded, or does it run another Python?",
            )
            continue
        problems = [
            f"{name} is {version} there and {first.versions[name]} here"
            for name, version in machine.versions.items()
            if version != first.versions[name]
        ]
        if abs(machine.skew) > _MAX_SKEW:
            problems.append(f"its clock is {machine.skew:+.0f} s off")
        if machine.resources.get("GPU", 0) and not machine.gpus:
            problems.append("Ray has GPUs here, but nvidia-smi shows none")
        if machine.gpus and not machine.resources.get("GPU"):
            problems.append(f"has {len(machine.gpus)} GPUs that Ray does not use")
        summary = f"{machine.address}: {has or 'no CPU for work'}" + (f", {machine.gpus[0]}" if machine.gpus else "")
        hint = "use the same image or environment on every machine, and start Ray with its GPUs" if problems else ""
        yield Finding("machine", not problems, "; ".join([summary, *problems]), hint)
    yield Finding("versions", True, ", ".join(f"{name} {version}" for name, version in first.versions.items()))
