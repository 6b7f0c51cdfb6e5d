"""Submit runs to a Ray cluster: check the job here, write its recipe below the output, submit, and follow the run.

The submitted command is `python -P -m coyo_jobs run URI`, where URI is the recipe that was written. Submitting the same
recipe again continues the job, like running the same command again.
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
from cluster.runtime_env import CREDENTIALS, Environment, pack, read_environ
from cluster.submit import ID, Head, Submission, connect
from jobs import PACKAGES, __version__
from jobs.commands.status import status as status_of_output
from jobs.config import JobConfig, StorageConfig
from jobs.driver.progress import format_duration
from jobs.driver.tasks import Partition
from jobs.errors import ClusterError, ConfigError, Interrupted, OutputError, StorageError
from jobs.log import say
from jobs.models.labels import load_labels
from jobs.output import identity
from jobs.output.layout import SUBMITTED
from jobs.sources.discover import discover
from jobs.storage import Storage
from jobs.storage.paths import is_local, join_path

VERSION_KEY = "coyo_jobs"  # metadata key that marks submissions of this package
_STORAGE_KEYS = ("endpoint_url", "region")  # stored as metadata: `status` may run without the recipe
_CODE = (*PACKAGES, "coyo_jobs.py")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class SubmitOptions:
    """Options of one submission: its id, the names of environment variables to forward, whether to forward credentials,
    whether the code is installed and local paths are shared, and the log format."""

    id: str | None = None
    env: Sequence[str] = ()
    credentials: bool = True
    installed: bool = False
    shared_paths: bool = False
    log: str = "text"


def submit(config: JobConfig, part: Partition, head: Head, options: SubmitOptions) -> str:
    """Check the job, without loading a model, write its recipe, and submit it. Return the id. Raises JobError."""
    if options.id is not None and not ID.fullmatch(options.id):
        raise ConfigError(
            f"--id {options.id}: must be at most 200 letters, digits, . _ -, and begin with a letter or digit"
        )
    with _as_cluster_errors():  # before the recipe of that submission would be overwritten
        if options.id is not None and options.id in {submission.id for submission in head.list()}:
            raise ConfigError(
                f"--id {options.id}: the cluster has a submission with this id", "choose another --id, or omit it"
            )
    config = identity.with_absolute_paths(config)
    if not options.shared_paths:
        _refuse_local_paths(config)
    variables, storage = _forwarded_variables(config, options), Storage(config.storage)
    config = _inline_labels(config, storage)
    source = discover(storage, config.source)
    say("source", source.description)
    identity.check_output(storage, config)
    identity.check_output_matches(storage, config, source.pinned_config)
    id = options.id or _make_id(config.output.path, part)
    uri = join_path(config.output.path, SUBMITTED, f"{id}.yaml")
    storage.put(uri, f"# Submitted by coyo-jobs {__version__} as {id}.\n{config.to_yaml()}".encode())
    say("recipe", uri)
    words = ["python", "-P", "-m", "coyo_jobs", "run", uri, *(["--part", str(part)] if part.count > 1 else [])]
    words += ["--log", options.log] if options.log != "text" else []
    about = {VERSION_KEY: __version__, "output": config.output.path, "recipe": uri, "part": str(part)}
    about |= {name: value for name in _STORAGE_KEYS if (value := getattr(config.storage, name))}
    with _as_cluster_errors(), tempfile.TemporaryDirectory() as folder:
        root = Path(__file__).parents[2]
        code = None if options.installed else pack(root, _CODE, Path(folder))
        head.submit(shlex.join(words), Environment(variables, code), about, id)
    say("submitted", f"{id} to {head.address}", submission=id)
    return id


def reach(address: str | None, verify: str) -> Head:
    """Connect to the head of a cluster. Raises ClusterError."""
    with _as_cluster_errors():
        return connect(address, verify)


def follow(head: Head, id: str) -> Iterator[str]:
    """Yield the log as it grows, until the submission ends."""
    with _as_cluster_errors():
        yield from head.follow(id, lambda note: say("note", note))


def wait(head: Head, id: str) -> int:
    """Print the log until the submission ends. Return its exit code."""
    try:
        for text in follow(head, id):
            sys.stderr.write(text)
            sys.stderr.flush()
    except KeyboardInterrupt:
        hint = f"coyo-jobs logs {id} -f follows it again; coyo-jobs stop {id} stops it"
        raise Interrupted("stopped following; the job continues", hint) from None
    ended = get_submission(head, id)
    say("ended", message := f"{id} {describe(ended)}", line=message, submission=id, code=ended.exit_code)
    return ended.exit_code


def get_submission(head: Head, id: str) -> Submission:
    with _as_cluster_errors():
        return head.get(id)


def log(head: Head, id: str) -> str:
    with _as_cluster_errors():
        return head.log(id)


def stop(head: Head, id: str) -> Submission:
    """Stop a submission in order and wait until it has ended."""
    with _as_cluster_errors():
        return head.stop(id)


def list_submissions(head: Head) -> list[Submission]:
    """Return the submissions made by coyo-jobs, newest first."""
    with _as_cluster_errors():
        return [submission for submission in head.list() if VERSION_KEY in submission.metadata]


def format_table(submissions: Sequence[Submission]) -> str:
    """Return one line per submission: id, state, start, output."""
    if not submissions:
        return "no submissions"
    width = max(len(submission.id) for submission in submissions)
    rows = []
    for submission in submissions:
        part = submission.metadata.get("part", "1/1")
        output = submission.metadata.get("output", "") + (f" part {part}" if part != "1/1" else "")
        began = datetime.fromtimestamp(submission.began, UTC).strftime("%Y-%m-%d %H:%M")
        rows.append(f"{submission.id:<{width}}  {submission.state:<9}  {began}  {output}")
    return "\n".join(rows)


def status(head: Head, id: str, *, as_json: bool) -> tuple[str, bool]:
    """Return a submission's state and its job's progress as text, and whether it succeeded or is alive."""
    submission = get_submission(head, id)
    output = submission.metadata.get("output", "")
    storage = Storage(StorageConfig.model_validate({name: submission.metadata.get(name) for name in _STORAGE_KEYS}))
    try:
        progress, healthy = "", True
        if output:
            progress, healthy = status_of_output(output, as_json=as_json, storage=storage, since=submission.began)
    except (OutputError, StorageError) as exc:  # a new run may not have published yet
        progress, healthy = json.dumps(exc.message) if as_json else exc.message, not submission.finished
    healthy = submission.state == "SUCCEEDED" or (healthy and not submission.finished)
    if as_json:
        return json.dumps(
            {"submission": asdict(submission), "output": json.loads(progress or "null")}, indent=1
        ), healthy
    return "\n".join(
        filter(
            None, [f"{submission.id}: {describe(submission)} on {head.address}", f"  {submission.command}", progress]
        )
    ), healthy


def describe(submission: Submission) -> str:
    """Describe the state: "RUNNING for 1:20", "FAILED with code 2 after 0:03"."""
    spent = format_duration(max(0.0, (submission.ended or time.time()) - submission.began))
    if not submission.finished:
        return f"{submission.state} for {spent}"
    failed, message = submission.state == "FAILED", submission.message.partition("\n")[0]
    code = f" with code {submission.code}" if failed and submission.code is not None else ""
    why = f": {message}" if failed and not code and message else ""
    return f"{submission.state}{code} after {spent}{why}"


def _refuse_local_paths(config: JobConfig) -> None:
    """Raise ConfigError for local paths: each worker would write to its own disk, where the run finds nothing."""
    names = [model.weights for model in (config.models.vit, config.models.align) if model]
    names += [config.source.dataset.name] if config.source.dataset else []
    for path in [*config.source.paths, config.output.path, *(name for name in names if name.startswith("/"))]:
        if is_local(path):
            raise ConfigError(
                f"{path}: a local path, but a cluster has more than one machine",
                "use s3://, or pass --shared-paths if this path names the same folder on every node and here",
            )


def _inline_labels(config: JobConfig, storage: Storage) -> JobConfig:
    """Replace a file of labels by the labels: nodes lack that file, and the labels are part of the job's identity."""
    align = config.models.align
    if align is None or align.zero_shot is None:
        return config
    tree = config.model_dump()
    tree["models"]["align"]["zero_shot"].update(labels=load_labels(align.zero_shot, storage))
    return JobConfig.from_dict(tree)


def _forwarded_variables(config: JobConfig, options: SubmitOptions) -> dict[str, str]:
    """Return the environment of the run. It includes the storage's endpoint: the run needs that to read its recipe."""
    for name in options.env:
        if not _VARIABLE.fullmatch(name):
            name = name.partition("=")[0]  # never log the value
            raise ConfigError(f"--env {name}: not the name of a variable", "export it, and pass only its name")
    if missing := [name for name in options.env if name not in read_environ(options.env)]:
        raise ConfigError(f"--env {missing[0]}: not set", f"export {missing[0]}=..., or omit it")
    variables = read_environ([*(CREDENTIALS if options.credentials else ()), *options.env])
    if variables:
        say("forwards", ", ".join(variables))
    if "AWS_SESSION_TOKEN" in variables:
        say("note", "these credentials expire; with --no-credentials the nodes use their own role, which does not")
    # AWS_ENDPOINT_URL_S3 wins over AWS_ENDPOINT_URL, here and on the nodes.
    recipe = {"AWS_ENDPOINT_URL_S3": config.storage.endpoint_url, "AWS_DEFAULT_REGION": config.storage.region}
    return {**variables, **{name: value for name, value in recipe.items() if value}, "COYO_JOBS_VERSION": __version__}


def _make_id(output: str, part: Partition) -> str:
    """Make an id such as coyo-out-20261122T024700-3fa2."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", output.rstrip("/").rpartition("/")[2])[:40].strip(".-")
    return "-".join(
        filter(None, ["coyo", f"{name}{part.suffix}", f"{datetime.now(UTC):%Y%m%dT%H%M%S}", uuid.uuid4().hex[:4]])
    )


@contextmanager
def _as_cluster_errors() -> Iterator[None]:
    """Raise HeadError as ClusterError."""
    try:
        yield
    except HeadError as exc:
        raise ClusterError(exc.message, exc.hint) from exc
