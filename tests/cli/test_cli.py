"""The command line: exit codes that scripts can use, data on stdout, two lines on stderr for what went wrong."""

import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import yaml

from cluster import local
from jobs.cli import main
from jobs.config import JobConfig
from jobs.recipe import load_recipe
from tests.support.recipes import demo_job

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe(scenes_parquet: Path, tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(demo_job(scenes_parquet, tmp_path / "out").to_yaml())
    return path


def fails(capsys: pytest.CaptureFixture[str], *command: object) -> tuple[int, str]:
    """Exit code and stderr, which has one error and no traceback."""
    code = main([str(part) for part in command])
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert [line.startswith("error: ") for line in err.splitlines()].count(True) == 1
    return code, err


def real(*command: str) -> "subprocess.CompletedProcess[str]":
    """A process of its own, with a Ray of its own where it needs one."""
    return subprocess.run([sys.executable, "-m", "jobs", *command], capture_output=True, text=True, cwd=ROOT)


def test_init_prints_a_recipe_that_loads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["init", "s3://bucket/{00000..00127}.tar", "out #1: ümlaut"]) == 0
    (tmp_path / "job.yaml").write_text(capsys.readouterr().out)
    config = load_recipe(tmp_path / "job.yaml")
    assert config.source.path == "s3://bucket/{00000..00127}.tar"
    assert config.output.path == "out #1: ümlaut"
    assert config == JobConfig.from_dict(
        {"source": {"path": config.source.path}, "output": {"path": config.output.path}}
    )


def test_init_of_nothing_is_a_wrong_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails(capsys, "init", "", "out") == (2, "error: source.path is empty\n")


def test_a_missing_recipe_is_code_2_with_a_hint_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = fails(capsys, "run", "nowhere.yaml")
    assert (code, err.splitlines()) == (
        2, ["error: nowhere.yaml: no such recipe", "  hint: coyo-jobs init INPUT OUTPUT > job.yaml writes one"],
    )  # fmt: skip


def test_an_unknown_key_is_code_2_and_names_the_nearest(capsys: pytest.CaptureFixture[str], recipe: Path) -> None:
    """A typo that becomes a default costs a run over the whole corpus."""
    recipe.write_text(recipe.read_text().replace("top_k:", "topk:"))
    code, err = fails(capsys, "run", recipe)
    assert code == 2
    assert "models.vit.topk is not a known key; the nearest is 'top_k'" in err


@pytest.mark.parametrize("text", ["", "- a", "source: [", "source: 5\noutput: {path: x}"])
def test_what_is_no_recipe_is_code_2(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    assert fails(capsys, "run", tmp_path / "job.yaml")[0] == 2


@pytest.mark.parametrize("override", ["models.vit.topk=3", "nonsense", "models.vit.top_k=zero", "=1"])
def test_a_wrong_override_is_code_2(capsys: pytest.CaptureFixture[str], recipe: Path, override: str) -> None:
    assert fails(capsys, "run", recipe, "--set", override)[0] == 2


def test_nothing_to_read_is_code_1_with_a_hint(
    capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path
) -> None:
    code, err = fails(capsys, "run", recipe, "--set", f"source.path={tmp_path}/nothing")
    assert code == 1
    assert f"no files at {tmp_path}/nothing" in err
    assert "  hint: check" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", ["", "/results", "/a/b"])
def test_an_output_inside_the_source_is_code_1(
    capsys: pytest.CaptureFixture[str], recipe: Path, scenes_parquet: Path, below: str
) -> None:
    """The next run would read the results of the first."""
    before = sorted(scenes_parquet.rglob("*"))
    code, err = fails(capsys, "run", recipe, "--set", f"output.path={scenes_parquet}{below}")
    assert code == 1
    assert "lies inside the source" in err
    assert "  hint: name a folder outside the source, or results would be read as input" in err
    assert sorted(scenes_parquet.rglob("*")) == before


def test_an_output_that_a_recursive_glob_finds_is_code_1(
    capsys: pytest.CaptureFixture[str], recipe: Path, scenes_parquet: Path, tmp_path: Path
) -> None:
    """The first run went well; every run after it died on its own rejects/, for good."""
    (tmp_path / "in").mkdir()
    shutil.copy(scenes_parquet / "part-00000.parquet", tmp_path / "in")
    code = main(["run", str(recipe), "--set", f"source.path={tmp_path}/**/*.parquet", "--set", "models.align=null"])
    assert code == 1
    assert "inside the source" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["nonsense"], ["run"], ["init", "only-one"], ["report", "x", "--rows", "few"]])
def test_a_wrong_command_is_code_2_with_usage(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 2
    assert "usage: coyo-jobs" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["report", "DIR", "--rows", "-1"], ["demo", "DIR", "--shards", "0"]])
def test_a_count_below_one_is_a_wrong_command(tmp_path: Path, command: list[str]) -> None:
    """`report --rows -1` and `demo --rows-per-shard 0` ended in tracebacks of numpy."""
    with pytest.raises(SystemExit) as caught:
        main([part.replace("DIR", str(tmp_path)) for part in command])
    assert caught.value.code == 2


def test_a_report_on_no_output_is_code_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, err = fails(capsys, "report", tmp_path, "--to", tmp_path / "sheet.png")
    assert code == 1
    assert "is not the output of a job" in err


def test_a_real_process_ends_with_the_same_code() -> None:
    shown = real("run", "nowhere.yaml")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith("error: nowhere.yaml")


def test_a_job_servers_address_is_told_from_a_clusters(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own commands take submissions to RAY_ADDRESS, and runs too; the two are different addresses."""
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    shown = real("run", str(recipe))
    assert shown.returncode == 1
    assert "error: Ray cannot be reached: RAY_ADDRESS is http://head:8265, a job server" in shown.stderr


def test_a_head_that_is_gone_is_told_at_once(
    capsys: pytest.CaptureFixture[str], recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray tries for 20 minutes to reach it, and hears no signal meanwhile."""
    monkeypatch.setattr(local, "_CONNECT_SECONDS", 0.0)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    code, err = fails(capsys, "run", recipe)
    assert code == 1
    assert "error: Ray cannot be reached: nothing answers at 127.0.0.1:9: " in err


def test_a_run_says_what_it_did_on_stdout_and_set_counts(
    capfd: pytest.CaptureFixture[str], recipe: Path, no_ray: None, tmp_path: Path
) -> None:
    command = ["run", str(recipe), "--set", "models.vit.top_k=2", "--set", "models.align=null"]
    assert main(command) == 0
    out, err = capfd.readouterr()
    assert out.startswith("116 rows and 4 rejects from 3 shards in ")
    assert "rejected         1  truncated" in out
    assert err.startswith("source    3 parquet shards")
    labels = pq.read_table(tmp_path / "out" / "rows").column("labels").to_pylist()
    assert {len(ids) for ids in labels} == {2}
    assert yaml.safe_load((tmp_path / "out" / "_job.yaml").read_text())["models"]["align"] is None
    assert main(command) == 0
    assert "already complete" in capfd.readouterr().err


@pytest.mark.slow
def test_an_error_in_the_middle_of_a_run_is_two_lines_too(scenes_parquet: Path, tmp_path: Path) -> None:
    """A hundred lines of frames hid the one that says which shard lacks which column."""
    (tmp_path / "in").mkdir()
    shutil.copy(scenes_parquet / "part-00000.parquet", tmp_path / "in" / "a.parquet")
    pq.write_table(pa.table({"id": [1]}), tmp_path / "in" / "b.parquet")
    shown = real("run", _written(demo_job(tmp_path / "in", tmp_path / "out"), tmp_path / "job.yaml"))
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "b.parquet: no column" in shown.stderr
    assert "Traceback" not in shown.stderr


def _written(config: JobConfig, path: Path) -> str:
    path.write_text(config.to_yaml())
    return str(path)
