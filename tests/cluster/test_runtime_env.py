"""What travels with a submission: a small package of code, and values that nothing shows."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cluster.runtime_env import CREDENTIALS, Environment, pack, read_environ

ROOT = Path(__file__).parents[2]


def test_the_package_holds_code_and_the_demos_checkpoints_and_runs_on_its_own(tmp_path: Path) -> None:
    code = pack(ROOT, ("jobs", "cluster"), tmp_path)
    names = zipfile.ZipFile(code).namelist()
    assert {"jobs/cli/__init__.py", "cluster/local.py", "jobs/demo/weights/vit/model.safetensors"} <= set(names)
    assert {name.partition("/")[0] for name in names} == {"jobs", "cluster"}
    assert {Path(name).suffix for name in names} == {".py", ".json", ".txt", ".safetensors"}
    assert code.stat().st_size < 5 << 20
    zipfile.ZipFile(code).extractall(tmp_path / "there")
    command = [sys.executable, "-c", "import jobs, cluster; print(jobs.__file__, cluster.__file__)"]
    shown = subprocess.run(command, cwd=tmp_path / "there", env={}, capture_output=True, text=True, check=True)
    assert shown.stdout.count(str(tmp_path / "there")) == 2


def test_the_same_code_is_the_same_package(tmp_path: Path) -> None:
    """Ray names a package by its bytes, and uploads what it has not seen."""
    (tmp_path / "other").mkdir()
    one, two = pack(ROOT, ("cluster",), tmp_path), pack(ROOT, ("cluster",), tmp_path / "other")
    assert one.read_bytes() == two.read_bytes()


def test_values_travel_and_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("AWS_REGION", "")
    environment = Environment(read_environ(CREDENTIALS))
    assert environment.variables == {"HF_TOKEN": "hf_secret"}
    assert "hf_secret" not in repr(environment)
    tree = environment.to_ray()
    assert tree["env_vars"]["HF_TOKEN"] == "hf_secret"
    assert "working_dir" not in tree
