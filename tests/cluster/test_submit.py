"""A job on a real Ray cluster: handed over, watched, stopped, gone on with, from commands alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from jobs.cli import main
from jobs.demo import corpus
from jobs.output.layout import SUBMITTED
from jobs.storage import Storage
from tests.support.heads import TOKEN, Place, ended
from tests.support.outputs import check_whole, read, rows_of
from tests.support.processes import until
from tests.support.recipes import demo_job, small_job
from tests.support.shards import put_folder

pytestmark = pytest.mark.slow


def test_a_job_on_s3_is_submitted_stopped_and_gone_on_with(head: Place, bucket: str, s3: str, tmp_path: Path) -> None:
    """The whole life of a submission, behind TLS and a token; Ray's dashboard calls it what status does. Its storage's
    address is in the recipe alone, and what is secret in none of what anybody can read: the log, the recipe, the
    metadata, the logs of Ray's own processes."""
    corpus.write_parquet(tmp_path / "in", 6, 80)
    put_folder(tmp_path / "in", f"{bucket}/in")
    output, secret = f"{bucket}/out", "wJalrXUtnFEMI-not-for-logs"
    recipe = tmp_path / "job.yaml"
    recipe.write_text(small_job(f"{bucket}/in", output, storage={"endpoint_url": s3, "region": "us-east-1"}).to_yaml())
    submit = ("submit", recipe, "--address", head.secure, "--verify", head.trust, "--wait", "--env", "WORD")
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": secret, "WORD": secret}

    slowly = ("--set", "compute.batch_size=1")  # so that there is something to stop
    first = head.start(*submit, *slowly, env={**keys, "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"})  # the flag wins
    until(lambda: Storage().list_files(f"{output}/rows") or first.poll() is not None)
    id = Path(Storage().list_files(f"{output}/{SUBMITTED}")[0].path).stem
    stopped = head.says("stop", id)
    assert stopped.startswith("STOPPED after ")
    followed = ended(first, 130)
    log = head.says("logs", id)
    assert "error: stopped by SIGTERM; rows with results are committed" in log.splitlines()
    assert "\nmodel     vit: demo, " in log
    assert log in followed
    known = json.loads(head.says("status", id, "--json", code=1))
    assert (known["submission"]["state"], known["output"]["parts"][0]["state"]) == ("STOPPED", "stopped")

    again = ended(head.start(*submit, "--set", "output.rows_per_file=64", env=keys), 0)
    assert " of 6 shards to read" in again
    listed = [line.split()[:2] for line in head.says("list").splitlines() if output in line]
    assert [state for _, state in listed] == ["SUCCEEDED", "STOPPED"]
    assert f"{listed[0][0]} SUCCEEDED after 0:" in again
    assert head.says("status", listed[0][0]).startswith(f"{listed[0][0]}: SUCCEEDED after 0:")
    shown = json.loads(head.says("status", listed[0][0], "--json"))["output"]["parts"][0]["run"]
    (dataset,) = head.answers(f"/api/data/datasets/{head.answers(f'/api/jobs/{listed[0][0]}')['job_id']}")["datasets"]
    assert (dataset["dataset"].startswith(f"{shown}_"), dataset["state"]) == (True, "FINISHED")
    check_whole(output, rows_of(6, 80))

    written = [Storage().read(entry.path).decode() for entry in Storage().list_files(f"{output}/{SUBMITTED}")]
    assert {yaml.safe_load(text)["output"]["path"] for text in written} == {output}
    said = [log, followed, again, stopped, json.dumps(known), *written]
    said += [path.read_text(errors="replace") for path in head.logs.rglob("*") if path.is_file()]
    assert not [text[:200] for text in said if secret in text or TOKEN in text]
    assert "forwards  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, WORD\n" in again


@pytest.fixture(params=["here", "on a cluster"])
def run(request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]) -> Callable[[Path], tuple[int, str]]:
    """Runs a recipe; its exit code, and all it said."""
    if request.param == "here":
        request.getfixturevalue("no_ray")

        def here(recipe: Path) -> tuple[int, str]:
            return main(["run", str(recipe)]), "".join(capfd.readouterr())

        return here
    head: Place = request.getfixturevalue("head")

    def there(recipe: Path) -> tuple[int, str]:
        process = head.start("submit", recipe, "--shared-paths", "--wait")
        said = "".join(process.communicate(timeout=500))
        return process.returncode, said

    return there


def test_a_damaged_shard_is_code_3_and_costs_only_what_is_lost(
    run: Callable[[Path], tuple[int, str]], scenes_tars: Path, tmp_path: Path
) -> None:
    """An upload that was cut: the other shards are done, and a script can tell that something is missing."""
    shutil.copytree(scenes_tars, tmp_path / "in")
    cut = tmp_path / "in" / "00001.tar"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    recipe = tmp_path / "job.yaml"
    recipe.write_text(demo_job(tmp_path / "in", tmp_path / "out").to_yaml())
    code, said = run(recipe)
    assert code == 3, said
    assert "damaged shard 00001.tar: the tar " in said
    summary = json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert list(summary["damaged_shards"]) == ["00001.tar"]
    assert (tmp_path / "out" / "_SUCCESS").exists()
    rows = read(str(tmp_path / "out"), "rows").column("shard").to_pylist()
    assert 10 < rows.count("00001.tar") < 30
    assert rows.count("00000.tar") + rows.count("00002.tar") > 70
    assert main(["run", str(recipe)]) == 3
    assert main(["run", str(recipe), "--accept-damage"]) == 0


def test_what_a_head_refuses_is_two_lines(head: Place, scenes_parquet: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "job.yaml"
    recipe.write_text(demo_job(scenes_parquet, tmp_path / "out").to_yaml())
    said = ended(head.start("list", env={"RAY_AUTH_TOKEN": "another"}), 1)
    assert said.startswith(f"error: {head.plain} refuses access: ")
    assert "\n  hint: set RAY_AUTH_TOKEN" in said
    said = head.says("list", "--address", head.secure, code=1)
    assert "certificate is not trusted\n  hint: pass its CA certificate with --verify FILE" in said
    assert "Job nonesuch does not exist" in head.says("logs", "nonesuch", "-f", code=1)

    # The image has another version of this package: the run says so, at once.
    submit = ("submit", recipe, "--shared-paths", "--id", "one", "--wait")
    said = ended(head.start(*submit, of="0.0.9"), 1)
    assert "error: submitted by coyo-jobs 0.0.9; this is " in said
    assert "\none FAILED with code 1 after 0:" in said
    assert "error: --id one: the cluster has a submission with this id" in head.says(*submit, code=2)
