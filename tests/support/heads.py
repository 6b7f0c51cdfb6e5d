"""A Ray head with a job server and a token, and commands that reach it."""

import contextlib
import io
import json
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from jobs import __version__
from jobs.cli import main
from tests.support.processes import ENVIRONMENT, ROOT

TOKEN = "5a1f0c9b7d3e48268f10b2c4d6e8fa02"


@dataclass(frozen=True)
class Place:
    """A head: where its job server is, plain and behind TLS, whom to trust for that, and where its logs are."""

    plain: str
    secure: str
    trust: Path
    logs: Path

    def start(
        self, *words: object, env: Mapping[str, str] | None = None, of: str = __version__
    ) -> "subprocess.Popen[str]":
        """`coyo-jobs WORDS` of a version in a process of its own, with the cluster and its token in the environment."""
        command = f"import jobs; jobs.__version__ = {of!r}; from jobs.cli import entry; entry()"
        where = {"RAY_AUTH_TOKEN": TOKEN, "RAY_API_SERVER_ADDRESS": self.plain}
        return subprocess.Popen(
            [sys.executable, "-c", command, *map(str, words)],
            env={**ENVIRONMENT, **where, **(env or {})}, cwd=ROOT, text=True, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip

    def answers(self, path: str) -> Any:
        """What the dashboard's own pages ask it."""
        asked = urllib.request.Request(self.plain + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(asked, timeout=500) as answer:
            return json.load(answer)

    def says(self, *words: object, code: int = 0) -> str:
        """What a command prints here and now. The token is a header: this process may have a Ray with another."""
        header = json.dumps({"Authorization": f"Bearer {TOKEN}"})
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            patch.setenv("RAY_JOB_HEADERS", header)
            patch.setenv("RAY_API_SERVER_ADDRESS", self.plain)
            given = main([str(word) for word in words])
        assert given == code, out.getvalue()
        return out.getvalue()


def ended(process: "subprocess.Popen[str]", code: int) -> str:
    """All it said, when it has ended with this code."""
    out, err = process.communicate(timeout=500)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return out + err
