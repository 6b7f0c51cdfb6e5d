"""What a submission does before a head has it: checks, the recipe beside the output, one command that reads it."""

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import s3fs

from cluster.runtime_env import CREDENTIALS, Environment
from cluster.submit import Head, Submission
from jobs import cli
from jobs.commands import submit as submission
from jobs.commands.status import status
from jobs.commands.submit import SubmitOptions, submit
from jobs.config import JobConfig
from jobs.driver.progress import publish, waiting_progress
from jobs.driver.tasks import Partition
from jobs.errors import ConfigError, OutputError, SourceError, StorageError
from jobs.log import to_stderr
from jobs.output import identity
from jobs.output.layout import JOB, SUBMITTED
from jobs.recipe import load_recipe
from jobs.storage import Storage
from tests.support.recipes import demo_job


@dataclass(frozen=True)
class Given(Head):
    """A head that keeps what it is given."""

    client: Any = None
    address: str = "http://head:8265"
    jobs: list[tuple[str, Environment, Mapping[str, str], str]] = field(default_factory=list)
    found: dict[str, Submission] = field(default_factory=dict)

    def submit(self, command: str, environment: Environment, metadata: Mapping[str, str], id: str) -> None:
        self.jobs.append((command, environment, metadata, id))

    def get(self, id: str) -> Submission:
        return self.found[id]


@pytest.fixture(autouse=True)
def _without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def config(scenes_parquet: Path, tmp_path: Path) -> JobConfig:
    return demo_job(scenes_parquet, tmp_path / "My out!")


SHARED = SubmitOptions(shared_paths=True)


def test_the_submitted_command_reads_the_same_job(config: JobConfig, tmp_path: Path) -> None:
    """One argument: nothing of the recipe is spelled a second time."""
    head = Given()
    id = submit(config, Partition(2, 8), head, SubmitOptions(shared_paths=True, log="json"))
    ((command, _, metadata, given),) = head.jobs
    assert given == id
    words = shlex.split(command)
    assert words[:4] == ["python", "-P", "-m", "coyo_jobs"]
    args = cli._parser().parse_args(words[4:])
    assert load_recipe(args.recipe, args.set) == config
    assert (Partition.parse(args.part), args.log) == (Partition(2, 8), "json")
    assert args.recipe == metadata["recipe"] == f"{tmp_path}/My out!/{SUBMITTED}/{id}.yaml"
    assert id.startswith("coyo-My-out-2of8-20")


def test_a_recipe_of_this_folder_means_the_same_elsewhere(
    scenes_parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scenes_parquet.parent)
    head = Given()
    submit(demo_job(scenes_parquet.name, "../out"), Partition(), head, SHARED)
    monkeypatch.chdir(tmp_path)
    there = load_recipe(head.jobs[0][2]["recipe"])
    assert there.source.path == str(scenes_parquet)
    assert Path(there.output.path).is_absolute()


def test_labels_of_a_file_go_along_and_are_the_same_job_again(config: JobConfig, tmp_path: Path) -> None:
    """The nodes have not this machine's file, and the output knows its job by the labels, not by a file's name."""
    (tmp_path / "labels.txt").write_text("a cat\na dog\n")
    tree = config.model_dump()
    tree["models"]["align"]["zero_shot"] = {"labels": str(tmp_path / "labels.txt")}
    head = Given()
    for _ in range(2):
        submit(JobConfig.from_dict(tree), Partition(), head, SHARED)
        sent = load_recipe(head.jobs[-1][2]["recipe"])
        assert sent.model_dump()["models"]["align"]["zero_shot"]["labels"] == ("a cat", "a dog")
        identity.claim_output(
            Storage(), identity.pin_config(sent, sent.source.model_copy(update={"format": "parquet"}), ())
        )
    tree["models"]["align"]["zero_shot"] = {"labels": "nowhere.txt"}
    with pytest.raises(StorageError, match=r"labels: nowhere\.txt: not found"):
        submit(JobConfig.from_dict(tree), Partition(), head, SHARED)


def test_its_status_knows_its_storage_and_is_not_misled_by_an_earlier_run(
    config: JobConfig, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that only the recipe names, and an output in which the run before was stopped."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    s3fs.S3FileSystem(endpoint_url=s3).mkdir("elsewhere")
    tree = config.model_dump()
    tree["storage"] |= {"endpoint_url": s3, "region": "us-east-1"}
    tree["output"]["path"] = "s3://elsewhere/out"
    config, head = JobConfig.from_dict(tree), Given()
    id = submit(config, Partition(), head, SHARED)
    publish(
        Storage(config.storage), config.output.path, "", replace(waiting_progress("first", "", 0.0), state="stopped")
    )
    now = time.time()
    for state, began, healthy in [("RUNNING", now + 1, True), ("RUNNING", now - 1, False), ("FAILED", now + 1, False)]:
        head.found[id] = Submission(id, state, "", "", head.jobs[0][2], began, None, None)
        said, well = submission.status(head, id, as_json=False)
        assert (well, "  first on " in said) == (healthy, True), said


def test_a_submitted_recipe_is_no_part_of_the_output(config: JobConfig) -> None:
    """It is there before the job's own recipe is, and stays."""
    storage, output = Storage(), config.output.path
    submit(config, Partition(), Given(), SHARED)
    with pytest.raises(OutputError, match="no progress found"):
        status(output, as_json=False)
    assert not storage.exists(f"{output}/{JOB}")
    identity.claim_output(
        storage, identity.pin_config(config, config.source.model_copy(update={"format": "parquet"}), ())
    )
    submit(config, Partition(), Given(), SHARED)
    assert len(storage.list_files(f"{output}/{SUBMITTED}")) == 2


def test_values_go_into_the_environment_and_nowhere_else(
    config: JobConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-value")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session-value")
    monkeypatch.setenv("WANDB_KEY", "mine-value")
    head = Given()
    with to_stderr("text"):
        submit(config, Partition(), head, SubmitOptions(env=["WANDB_KEY"], shared_paths=True))
    command, environment, metadata, _ = head.jobs[0]
    assert {"aws-value", "session-value", "mine-value"} <= set(environment.variables.values())
    said = capfd.readouterr().err
    assert "forwards  AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, WANDB_KEY\n" in said
    assert "note      these credentials expire" in said
    recipe = Storage().read(metadata["recipe"]).decode()
    assert "-value" not in "".join([command, repr(environment), str(metadata), recipe, said])

    submit(config, Partition(), head, SubmitOptions(credentials=False, installed=True, shared_paths=True))
    assert list(head.jobs[1][1].variables) == ["COYO_JOBS_VERSION"]
    assert head.jobs[1][1].code is None


def test_a_run_can_reach_its_recipe_where_only_the_recipe_says_where(config: JobConfig) -> None:
    """What reads the recipe from S3 does not know yet what is in it."""
    tree = config.model_dump()
    tree["storage"] |= {"endpoint_url": "http://minio:9000", "region": "eu-west-1"}
    head = Given()
    submit(JobConfig.from_dict(tree), Partition(), head, SHARED)
    variables = head.jobs[0][1].variables
    assert variables["AWS_ENDPOINT_URL_S3"] == "http://minio:9000"  # of all variables, this one wins
    assert variables["AWS_DEFAULT_REGION"] == "eu-west-1"


@pytest.mark.parametrize(
    ("changes", "how", "error", "told"),
    [
        ({}, SubmitOptions(), ConfigError, "a local path, but a cluster has more than one machine"),
        ({"source": {"path": "s3://bucket/in"}}, SubmitOptions(), ConfigError, "/My out!: a local path"),
        ({}, SubmitOptions(id="a/b", shared_paths=True), ConfigError, "--id a/b: must be"),
        ({}, SubmitOptions(id="a" * 201, shared_paths=True), ConfigError, "at most 200"),
        ({}, SubmitOptions(env=["NOT_SET"], shared_paths=True), ConfigError, "--env NOT_SET: not set"),
        (
            {},
            SubmitOptions(env=["KEY=secret"], shared_paths=True),
            ConfigError,
            "--env KEY: not the name of a variable",
        ),
        ({"source": {"path": "nowhere"}}, SHARED, SourceError, "no files at "),
        ({"models": {"align": None}}, SHARED, OutputError, "models.align was "),
    ],
    ids=["local source", "local output", "id", "long id", "env", "value", "source", "another job's output"],
)
def test_what_is_wrong_is_told_here_and_nothing_is_submitted(
    config: JobConfig, changes: dict[str, Any], how: SubmitOptions, error: type[Exception], told: str
) -> None:
    """A cluster costs minutes to start; a wrong bucket is known in a second."""
    identity.claim_output(
        Storage(), identity.pin_config(config, config.source.model_copy(update={"format": "parquet"}), ())
    )
    tree = config.model_dump()
    for section, keys in changes.items():
        tree[section] = {**tree[section], **keys}
    head = Given()
    with pytest.raises(error, match=told):
        submit(JobConfig.from_dict(tree), Partition(), head, how)
    assert not head.jobs
    assert not Storage().list_files(f"{config.output.path}/{SUBMITTED}")


def test_the_logs_of_what_never_began_say_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray has a message of it, and no log."""
    ended = Submission("one", "FAILED", "", "Job supervisor actor could not be scheduled", {}, 1.0, 2.0, None)
    monkeypatch.setattr(submission, "reach", lambda *_: Given(found={"one": ended}))
    monkeypatch.setattr(Given, "log", lambda *_: "", raising=False)
    assert cli.main(["logs", "one", "--address", "http://head:8265"]) == 0
    assert "one: no log; FAILED after 0:01: Job supervisor actor could not be scheduled" in capsys.readouterr().err
