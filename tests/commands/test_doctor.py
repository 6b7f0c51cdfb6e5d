"""Everything a job needs is looked at, and what is missing comes with what to do."""

from pathlib import Path

import pytest

from cluster.survey import Machine, survey
from jobs.cli import main
from jobs.commands import doctor
from jobs.commands.doctor import Finding, examine
from tests.support.recipes import demo_job
from tests.support.shards import put_folder

VERSIONS = {"python": "3.11.7", "ray": "2.60.0"}


def failed(findings: list[Finding]) -> list[str]:
    return [finding.subject for finding in findings if not finding.ok]


def test_a_job_that_can_run_is_healthy(ray_session: None, scenes_parquet: Path, bucket: str, tmp_path: Path) -> None:
    put_folder(scenes_parquet, f"{bucket}/in")
    found = list(examine(demo_job(f"{bucket}/in", f"{bucket}/out")))
    assert failed(found) == []
    assert [finding.subject for finding in found] == [
        "source", "output", "clock", "models", "resources", "machine", "versions",
    ]  # fmt: skip
    (tmp_path / "job.yaml").write_text(demo_job(scenes_parquet, tmp_path / "out").to_yaml())
    assert main(["doctor", str(tmp_path / "job.yaml")]) == 0


def test_everything_that_is_missing_is_said_at_once(ray_session: None, s3: str, tmp_path: Path) -> None:
    job = demo_job("s3://no-such-bucket/in", "/proc/nobody/out", compute={"device": "cuda"})
    vit = job.models.vit
    assert vit is not None
    models = job.models.model_copy(update={"vit": vit.model_copy(update={"weights": str(tmp_path)})})
    found = list(examine(job.model_copy(update={"models": models})))
    assert failed(found) == ["source", "output", "clock", "models"]
    assert all(finding.hint for finding in found if not finding.ok)
    (resources,) = (finding.message for finding in found if finding.subject == "resources")
    assert "Ray sees no GPU; a run waits up to 1,800 s" in resources


def test_each_machine_answers_for_itself(ray_session: None) -> None:
    (machine,) = survey(("ray", "no-such-package"))
    assert machine.versions["no-such-package"] == "not installed"
    assert machine.versions["ray"] != "not installed"
    assert abs(machine.skew) < 1


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Machine("b", {**VERSIONS, "ray": "2.59.0"}, {"CPU": 4}), "ray is 2.59.0 there and 2.60.0 here"),
        (Machine("b", VERSIONS, {"CPU": 4}, skew=-300.0), "clock is -300 s off"),
        (Machine("b", VERSIONS, {"CPU": 4}, gpus=("H200",) * 8), "has 8 GPUs that Ray does not use"),
        (Machine("b", VERSIONS, {"CPU": 4, "GPU": 8}), "nvidia-smi shows none"),
        (Machine("b", {}, {"CPU": 4}, error="GetTimeoutError: 60 s"), "GetTimeoutError"),
    ],
)
def test_a_machine_that_is_unlike_the_driver_s_is_named(other: Machine, said: str) -> None:
    found = list(doctor._machines([Machine("a", VERSIONS, {"CPU": 2}), other]))
    assert [finding.ok for finding in found] == [True, False, True]
    assert said in found[1].message
    assert found[1].message.startswith("b: ")
