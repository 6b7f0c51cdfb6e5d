"""`jobs` and `cluster` are common names: other projects' packages of these names get nowhere in the way of a run.

Ray puts the driver's current folder first on the sys.path of each worker; Python does so for `python -m`.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest

from jobs.demo import corpus
from tests.support.heads import TOKEN, Place
from tests.support.recipes import demo_job

ROOT = Path(__file__).parents[2]
PLAIN = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("RAY_")}
CHECKOUT = {**PLAIN, "PYTHONPATH": str(ROOT)}  # installed or not: this one
COMMAND = (sys.executable, "-m", "coyo_jobs")
ROWS = 8


def fill(folder: Path) -> Path:
    """Make the folder another project's, with packages of our names."""
    for name in ("jobs", "cluster"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
    return folder


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    return fill(tmp_path / "foreign")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    corpus.write_parquet(tmp_path / "in", 1, ROWS)
    path = tmp_path / "job.yaml"
    path.write_text(demo_job(tmp_path / "in", tmp_path / "out").to_yaml())
    return path


def said(cwd: Path, *command: object, env: Mapping[str, str] = CHECKOUT, code: int = 0) -> str:
    """What a command prints that ends with this code."""
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def complete(recipe: Path) -> bool:
    summary = json.loads(recipe.with_name("out").joinpath("_summary.json").read_text())
    return bool(summary["rows"] + summary["rejects"] == ROWS)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a wheel, in an environment that has everything else from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    said(ROOT, sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder)
    venv.create(folder / "env", symlinks=True)
    python = folder / "env" / "bin" / "python"
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (site / "rest.pth").write_text(sysconfig.get_path("purelib"))
    (wheel,) = folder.glob("*.whl")
    said(folder, sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    return python.with_name("coyo-jobs")


@pytest.mark.slow
def test_a_wheel_runs_beside_foreign_packages(installed: Path, foreign: Path, recipe: Path) -> None:
    said(foreign, installed, "run", recipe, env=PLAIN)
    assert complete(recipe)


def test_the_command_starts_where_pythonpath_has_foreign_packages(installed: Path, foreign: Path) -> None:
    assert said(foreign, installed, "--version", env={**PLAIN, "PYTHONPATH": "."}).startswith("coyo-jobs ")


def test_an_installed_wheel_puts_no_folder_before_pythonpath_and_the_standard_library(installed: Path) -> None:
    code = "import jobs; from cluster.imports import missing_folders; print(missing_folders(jobs.PACKAGES))"
    assert said(installed.parent, installed.with_name("python"), "-P", "-c", code, env=PLAIN) == "[]\n"


@pytest.mark.slow
def test_a_checkout_runs_beside_foreign_packages_that_are_first_on_pythonpath_too(foreign: Path, recipe: Path) -> None:
    said(foreign, *COMMAND, "run", recipe, env={**CHECKOUT, "PYTHONPATH": f".{os.pathsep}{ROOT}"})
    assert complete(recipe)


def test_a_script_can_run_jobs_beside_a_foreign_cluster(foreign: Path) -> None:
    """Python puts the script's folder first on sys.path. Without an __init__.py, the other `jobs` comes last."""
    (foreign / "jobs" / "__init__.py").unlink()
    (foreign / "script.py").write_text("import jobs.run, cluster.local; print(jobs.run.__file__, cluster.__file__)")
    assert said(foreign, sys.executable, "script.py").count(f"{ROOT}/") == 2


@pytest.mark.slow
def test_a_run_on_a_cluster_that_was_started_elsewhere(head: Place, foreign: Path, recipe: Path) -> None:
    (port,) = head.logs.parent.glob("gcs_server_port_*")
    where = {"RAY_ADDRESS": f"127.0.0.1:{port.read_text()}", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    said(foreign, *COMMAND, "run", recipe, env={**CHECKOUT, **where})
    assert complete(recipe)


@pytest.mark.slow
def test_a_submission_to_a_head_that_was_started_beside_foreign_packages(
    head: Place, foreign: Path, recipe: Path
) -> None:
    """With --installed its command begins in the head's own folder."""
    there = head.logs.parents[1]
    if not (there / "jobs").exists():
        fill(there)
    where = {"RAY_AUTH_TOKEN": TOKEN, "RAY_API_SERVER_ADDRESS": head.plain}
    submit = ("submit", recipe, "--wait", "--installed", "--shared-paths")
    said(foreign, *COMMAND, *submit, env={**CHECKOUT, **where})
    assert complete(recipe)


@pytest.mark.slow
def test_a_ray_that_was_started_beside_foreign_packages_is_refused(foreign: Path, recipe: Path) -> None:
    """Its workers' sys.path is settled."""
    code = f"""
import ray
from jobs.errors import ClusterError
from jobs.recipe import load_recipe
from jobs.run import run

ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
try:
    run(load_recipe({str(recipe)!r}))
except ClusterError as exc:
    print(exc.message)
"""
    printed = said(foreign, sys.executable, "-P", "-c", code)
    assert f"Ray's workers would import `jobs` from {foreign}, the folder of ray.init()" in printed
    assert not recipe.with_name("out").joinpath("rows").exists()


def test_a_foreign_cluster_that_is_imported_already_is_named(foreign: Path) -> None:
    code = "import sys; sys.path.insert(0, 'cluster/..'); import cluster; sys.path.pop(0); import jobs"
    printed = said(foreign, sys.executable, "-P", "-c", code, code=1)
    assert printed.splitlines()[-1].startswith(f"ImportError: {foreign}")
