"""A run handed to a cluster: checked here, its recipe written beside the output, and looked after from anywhere.

What is submitted is `python -P -m coyo_jobs run URI`: the recipe travels as an object, nothing is encoded again.
Submitting the same recipe again is running the same command again: it goes on.
"""

import json
import re
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cluster.answers import HeadError
from cluster.runtime_env import CREDENTIALS, Environment, pack, set_here
from cluster.submit import ID, Head, Submission, connect
from jobs import PACKAGES, __version__
from jobs.commands.status import status as status_of_output
from jobs.config import JobConfig, StorageConfig
from jobs.driver.progress import clock
from jobs.driver.tasks import Partition
from jobs.errors import ClusterError, ConfigError, Interrupted, OutputError, StorageError
from jobs.log import say
from jobs.models.labels import listed
from jobs.output import identity
from jobs.output.layout import SUBMITTED
from jobs.sources.discover import discover
from jobs.storage import Storage
from jobs.storage.paths import is_local, join_path

VERSION = "coyo_jobs"  # the metadata that tells our submissions from others
_REACHED = ("endpoint_url", "region")  # of the recipe's storage, in the metadata: who looks may not have the recipe
_CODE = (*PACKAGES, "coyo_jobs.py")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class SubmitOptions:
    """What only this submission wants: names of variables to forward, where the code is, what local paths mean, and the
    form of its log."""

    id: str | None = None
    env: Sequence[str] = ()
    credentials: bool = True
    installed: bool = False
    shared_paths: bool = False
    log: str = "text"


def submit(config: JobConfig, part: Partition, head: Head, options: SubmitOptions) -> str:
    """Check what can be checked without a model, write the recipe, hand it over. Returns the id. Raises JobError."""
    if options.id is not None and not ID.fullmatch(options.id):
        raise ConfigError(f"--id {options.id}: not letters and digits, with . _ - inside, at most 200")
    with _translated():  # before its recipe would be replaced
        if options.id is not None and options.id in {each.id for each in head.list()}:
            raise ConfigError(f"--id {options.id}: the cluster has one of that name", "leave --id out, or give another")
    config = identity.with_absolute_paths(config)
    if not options.shared_paths:
        _refuse_local(config)
    variables, storage = _variables(config, options), Storage(config.storage)
    config = _with_labels(config, storage)
    source = discover(storage, config.source)
    say("source", source.said)
    identity.check_output(storage, config)
    identity.check_output_matches(storage, config, source.pinned)
    id = options.id or _readable(config.output.path, part)
    uri = join_path(config.output.path, SUBMITTED, f"{id}.yaml")
    storage.put(uri, f"# Submitted by coyo-jobs {__version__} as {id}.\n{config.to_yaml()}".encode())
    say("recipe", uri)
    words = ["python", "-P", "-m", "coyo_jobs", "run", uri, *(["--part", str(part)] if part.count > 1 else [])]
    words += ["--log", options.log] if options.log != "text" else []
    about = {VERSION: __version__, "output": config.output.path, "recipe": uri, "part": str(part)}
    about |= {name: value for name in _REACHED if (value := getattr(config.storage, name))}
    with _translated(), tempfile.TemporaryDirectory() as folder:
        root = Path(__file__).parents[2]
        code = None if options.installed else pack(root, _CODE, Path(folder))
        head.submit(shlex.join(words), Environment(variables, code), about, id)
    say("submitted", f"{id} to {head.address}", submission=id)
    return id


def reach(address: str | None, verify: str) -> Head:
    """The cluster's head. Raises ClusterError."""
    with _translated():
        return connect(address, verify)


def follow(head: Head, id: str) -> Iterator[str]:
    """The log as it grows, to the end."""
    with _translated():
        yield from head.follow(id, lambda note: say("note", note))


def wait(head: Head, id: str) -> int:
    """Show the log until the end; what the run would have returned here."""
    try:
        for text in follow(head, id):
            sys.stderr.write(text)
            sys.stderr.flush()
    except KeyboardInterrupt:
        hint = f"coyo-jobs logs {id} -f shows it again, coyo-jobs stop {id} ends it"
        raise Interrupted("no longer watching; the job goes on", hint) from None
    ended = look(head, id)
    say("ended", said := f"{id} {told(ended)}", line=said, submission=id, code=ended.exit_code)
    return ended.exit_code


def look(head: Head, id: str) -> Submission:
    with _translated():
        return head.look(id)


def log(head: Head, id: str) -> str:
    with _translated():
        return head.log(id)


def stop(head: Head, id: str) -> Submission:
    """Ends it in order, and waits for that."""
    with _translated():
        return head.stop(id)


def ours(head: Head) -> list[Submission]:
    """Of this package, the newest first."""
    with _translated():
        return [each for each in head.list() if VERSION in each.metadata]


def table(submissions: Sequence[Submission]) -> str:
    """A line for each."""
    if not submissions:
        return "no submissions"
    width = max(len(each.id) for each in submissions)
    rows = []
    for each in submissions:
        part = each.metadata.get("part", "1/1")
        output = each.metadata.get("output", "") + (f" part {part}" if part != "1/1" else "")
        began = datetime.fromtimestamp(each.began, UTC).strftime("%Y-%m-%d %H:%M")
        rows.append(f"{each.id:<{width}}  {each.state:<9}  {began}  {output}")
    return "\n".join(rows)


def status(head: Head, id: str, *, as_json: bool) -> tuple[str, bool]:
    """What the cluster says of it, and what its output does; whether all is well."""
    found = look(head, id)
    output = found.metadata.get("output", "")
    storage = Storage(StorageConfig.model_validate({name: found.metadata.get(name) for name in _REACHED}))
    try:
        said, healthy = "", True
        if output:
            said, healthy = status_of_output(output, as_json=as_json, storage=storage, since=found.began)
    except (OutputError, StorageError) as exc:  # a run that has just begun has published nothing
        said, healthy = json.dumps(exc.message) if as_json else exc.message, not found.over
    healthy = found.state == "SUCCEEDED" or (healthy and not found.over)
    if as_json:
        return json.dumps({"submission": asdict(found), "output": json.loads(said or "null")}, indent=1), healthy
    return "\n".join(
        filter(None, [f"{found.id}: {told(found)} on {head.address}", f"  {found.command}", said])
    ), healthy


def told(found: Submission) -> str:
    """RUNNING for 1:20; FAILED with code 2 after 0:03."""
    spent = clock(max(0.0, (found.ended or time.time()) - found.began))
    if not found.over:
        return f"{found.state} for {spent}"
    said = found.message.partition("\n")[0]
    why = f": {said}" if said and found.state == "FAILED" and found.code is None else ""
    code = f" with code {found.code}" if found.state == "FAILED" and found.code is not None else ""
    return f"{found.state}{code} after {spent}{why}"


def _refuse_local(config: JobConfig) -> None:
    """Each worker would write to a disk of its own, and the run would find nothing of it in the end."""
    names = [model.weights for model in (config.models.vit, config.models.align) if model]
    names += [config.source.dataset.name] if config.source.dataset else []
    for path in [*config.source.paths, config.output.path, *(name for name in names if name.startswith("/"))]:
        if is_local(path):
            raise ConfigError(
                f"{path}: a local path, and a cluster has more than one machine",
                "use s3://, or say --shared-paths where every node and this machine see the same folder there",
            )


def _with_labels(config: JobConfig, storage: Storage) -> JobConfig:
    """With the labels of a file as a list: no node has that file, and an output knows its job by the labels."""
    align = config.models.align
    if align is None or align.zero_shot is None:
        return config
    tree = config.model_dump()
    tree["models"]["align"]["zero_shot"].update(labels=listed(align.zero_shot, storage))
    return JobConfig.of(tree)


def _variables(config: JobConfig, options: SubmitOptions) -> dict[str, str]:
    """What is forwarded; the run finds its recipe with them before it can read where its storage is."""
    for name in options.env:
        if not _NAME.fullmatch(name):  # a value that was given with it is not for the log
            given = name.partition("=")[0]
            raise ConfigError(f"--env {given}: not the name of a variable", "export it, and give its name alone")
    if missing := [name for name in options.env if name not in set_here(options.env)]:
        raise ConfigError(f"--env {missing[0]}: not set here", f"export {missing[0]}=..., or leave it out")
    variables = set_here([*(CREDENTIALS if options.credentials else ()), *options.env])
    if variables:
        say("forwards", ", ".join(variables))
    if "AWS_SESSION_TOKEN" in variables:
        say("note", "these credentials end some day: a role of the nodes does not (--no-credentials)")
    # That of S3 alone wins over the other, here and on the nodes.
    where = {"AWS_ENDPOINT_URL_S3": config.storage.endpoint_url, "AWS_DEFAULT_REGION": config.storage.region}
    return {**variables, **{name: value for name, value in where.items() if value}, "COYO_JOBS_VERSION": __version__}


def _readable(output: str, part: Partition) -> str:
    """coyo-out-20261122T024700-3fa2"""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", output.rstrip("/").rpartition("/")[2])[:40].strip(".-")
    return "-".join(
        filter(None, ["coyo", f"{name}{part.suffix}", f"{datetime.now(UTC):%Y%m%dT%H%M%S}", uuid.uuid4().hex[:4]])
    )


@contextmanager
def _translated() -> Iterator[None]:
    """What a head refuses, as one of our errors."""
    try:
        yield
    except HeadError as exc:
        raise ClusterError(exc.message, exc.hint) from exc
