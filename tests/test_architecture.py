"""The lines that keep the code easy to change, held by reading the imports; CONTRIBUTING.md says them in words."""

import ast
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import schema

ROOT = Path(__file__).parents[1]
JOBS = sorted(ROOT.glob("jobs/**/*.py"))
CLUSTER = sorted(ROOT.glob("cluster/**/*.py"))
TESTS = sorted(ROOT.glob("tests/**/*.py"))


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> set[str]:
    """Every dotted name that the file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{place(path)}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def importers(*packages: str) -> set[str]:
    wanted = tuple(f"{package}." for package in packages)
    return {place(path) for path in JOBS + CLUSTER if any(f"{name}.".startswith(wanted) for name in imports(path))}


def test_where_it_runs_knows_nothing_of_what_runs() -> None:
    assert not importers("jobs") & {place(path) for path in CLUSTER}


def test_torch_is_imported_by_models_only() -> None:
    """And by the fast way to paint: a process that imports torch costs 0.2 GB."""
    allowed = ("jobs/models/", "jobs/commands/reference.py", "jobs/demo/train.py", "jobs/images/torch_resize.py")
    assert {path for path in importers("torch", "transformers") if not path.startswith(allowed)} == set()


def test_ray_data_is_imported_where_stages_are_joined_only() -> None:
    others = {path for path in importers("ray.data") if not path.startswith("jobs/pipeline/")}
    assert not others


@pytest.mark.parametrize("path", JOBS, ids=place)
def test_the_environment_is_read_in_one_place(path: Path) -> None:
    reads = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb", "putenv")
    }
    names = {"os.environ", "os.getenv"} & imports(path)
    assert not (reads | names) or place(path) == "jobs/cli/__init__.py"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=place(path))
        for path in JOBS
        # The demo's corpus writes what img2dataset would, and a log has events: names that are not the output's.
        if place(path) not in ("jobs/schema.py", "jobs/demo/corpus.py", "jobs/log.py")
    ],
)
def test_columns_are_spelled_in_schema_only(path: Path) -> None:
    between = {
        schema.SINCE,
        schema.END,
        schema.TOTAL,
        schema.STAGE,
        schema.REASON,
        schema.MESSAGE,
        schema.TEXT,
        schema.IMAGE,
    }
    columns = schema.RESERVED | between | {"stage", "reason", "message"}
    spelled = {
        node.value: node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in columns
    }
    assert not spelled


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=place(path)) for path in JOBS + CLUSTER + TESTS],
)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


def test_help_answers_at_once() -> None:
    """Half a minute of imports before a usage message makes people guess the flags. CPU time: others may be at work."""
    command = Path(sys.executable).with_name("coyo-jobs")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "exit codes" in shown.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, jobs.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=dict(os.environ)
    )
    heavy = {"torch", "transformers", "ray", "pyarrow", "numpy", "PIL", "s3fs", "fsspec", "pydantic", "rich"}
    assert not heavy & set(shown.stdout.split())
