"""What keeps the code easy to change and no linter checks.

Import directions are contracts of import-linter; heavy imports, relative ones and the environment are ruff's. Both have
their settings in pyproject.toml, and `make lint` checks them.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from jobs import schema

ROOT = Path(__file__).parents[1]


def parsed(pattern: str) -> Iterator[tuple[str, ast.Module]]:
    """Each file, by its path from the root."""
    for path in sorted(ROOT.glob(pattern)):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def imports(tree: ast.Module) -> set[str]:
    """Every module that is imported, also inside functions."""
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return found | {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_ray_data_is_imported_by_the_pipeline_only() -> None:
    """To import-linter all of Ray is one package."""
    users = {
        path
        for path, tree in parsed("jobs/**/*.py")
        if any(f"{name}.".startswith("ray.data.") for name in imports(tree))
    }
    assert {path for path in users if not path.startswith("jobs/pipeline/")} == set()
    assert users


def test_no_test_module_imports_another() -> None:
    """What tests share is in tests/support/."""
    shared = {
        (path, name)
        for path, tree in parsed("tests/**/*.py")
        for name in imports(tree)
        if name.startswith("tests.") and not name.startswith("tests.support")
    }
    assert shared == set()


def test_columns_are_spelled_in_schema_only() -> None:
    between = {schema.SINCE, schema.END, schema.TOTAL, schema.STAGE, schema.REASON, schema.MESSAGE}
    columns = schema.RESERVED | between | {schema.TEXT, schema.IMAGE, "stage", "reason", "message"}
    # The demo's corpus writes what img2dataset would, and a log has events: names that are not the output's.
    others = {"jobs/schema.py", "jobs/demo/corpus.py", "jobs/log.py"}
    spelled = {
        f"{path}:{node.lineno}: {node.value}"
        for path, tree in parsed("jobs/**/*.py")
        if path not in others
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in columns
    }
    assert spelled == set()


def test_files_and_functions_stay_small() -> None:
    big = set()
    for folder in ("jobs", "cluster", "tests"):
        for path, tree in parsed(f"{folder}/**/*.py"):
            lines = len((ROOT / path).read_text().splitlines())
            big |= {f"{path}: {lines} lines"} if lines > 300 else set()
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or 0) - node.lineno
                    big |= {f"{path}: {node.name}: {length} lines"} if length >= 60 else set()
    assert big == set()


def test_help_is_shown_without_importing_anything_heavy() -> None:
    """Half a minute of imports before a usage message makes people guess the flags."""
    code = """
import sys
from jobs.cli import main
try:
    main(["--help"])
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {"torch", "transformers", "ray", "pyarrow", "numpy", "PIL", "s3fs", "fsspec", "pydantic", "rich"}
    assert not heavy & set(shown.stderr.split())
    assert "exit codes" in shown.stdout
