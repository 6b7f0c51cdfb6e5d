"""The demo, run once by its own command, and the folder that it was run in."""

import io
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from jobs import cli


@pytest.fixture(scope="session")
def demo_run(s3: str, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(the folder that holds demo/, all that the command printed)."""
    home, printed = tmp_path_factory.mktemp("home"), io.StringIO()
    with chdir(home), redirect_stdout(printed), redirect_stderr(printed):
        assert cli.main(["demo"]) == cli.DONE
    return home, printed.getvalue()


@pytest.fixture
def at_demo(demo_run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where a reader is who has run the demo: `demo/` is here. Nothing is asked of the hub."""
    monkeypatch.chdir(demo_run[0])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return demo_run[0]
