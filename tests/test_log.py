"""The log of a run: readable lines, or JSON events on every line."""

import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from jobs import log
from jobs.cli import main
from jobs.driver import progress
from jobs.errors import ClusterError
from jobs.log import LOGGER, say, to_stderr
from tests.support.events import events
from tests.support.progress import FRESH, after, now
from tests.support.recipes import demo_job

ROOT = Path(__file__).parents[1]


def python(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_people_see_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with to_stderr("text"):
        say("source", "8 shards, 100%", shards=8)
        say("error", "no", line="error: no\n  hint: yes")
        say("shard", "a: 3 rows", level=logging.DEBUG)
        say("finished", "which stdout says")
    assert capsys.readouterr() == ("", "source    8 shards, 100%\nerror: no\n  hint: yes\n")


def test_machines_get_one_object_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    with to_stderr("json"):
        log.set_run("r1")
        say("shard", "a\nb: 3 rows, 100%", level=logging.DEBUG, shard="a\nb", reasons={"empty": 2})
        say("finished", "all")
    first, last = events(capfd.readouterr().err)
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "debug", "event": "shard", "message": "a\nb: 3 rows, 100%", "run": "r1", "shard": "a\nb",
        "reasons": {"empty": 2},
    }  # fmt: skip
    assert last["event"] == "finished"


def test_whatever_else_is_on_stderr_is_an_event_too(capfd: pytest.CaptureFixture[str]) -> None:
    """A library's warning or a progress bar would break a parser at the first line."""
    theirs, before = '{"event": "plan", "message": "of the run that is followed"}', sys.stderr
    with to_stderr("json"):
        logging.getLogger("botocore").warning("of a %s", "library")
        warnings.warn("old", stacklevel=1)
        print("hello\n\nworld", file=sys.stderr)
        print(f"{theirs[:20]}", end="", file=sys.stderr)
        print(f"{theirs[20:]}\n[1, 2]", file=sys.stderr)
        print("\r10%\r20%", end="", file=sys.stderr)
        print("\r30%", end="", file=sys.stderr)
    said = events(capfd.readouterr().err)
    told = [(event["event"], event.get("logger"), event["message"].splitlines()[0].strip()) for event in said]
    assert [each for each in told if each[1] != "py.warnings"] == [
        ("other", "botocore", "of a library"), ("other", "stderr", "hello"), ("other", "stderr", "world"),
        ("plan", None, "of the run that is followed"), ("other", "stderr", "[1, 2]"), ("other", "stderr", "30%"),
    ]  # fmt: skip
    assert [each[2].endswith("UserWarning: old") for each in told if each[1] == "py.warnings"] == [True]
    assert sys.stderr is before
    assert not [handler for handler in logging.getLogger().handlers if isinstance(handler, log._JsonHandler)]


def test_a_fault_of_our_own_is_an_event_with_its_traceback() -> None:
    code = "from jobs import log\nwith log.to_stderr('json'):\n    log.set_run('r1')\n    {}['nothing']"
    ended = python(code)
    (event,) = events(ended.stderr)
    assert ended.returncode == event["code"] == 1
    assert (event["event"], event["level"], event["error"], event["run"]) == ("error", "critical", "KeyError", "r1")
    assert event["traceback"].startswith("Traceback")


def test_a_reader_that_is_gone_stops_no_run() -> None:
    """`2> >(head -1)`, or a log shipper that restarts."""
    code = "import os, sys\nfrom jobs import log\nr, w = os.pipe()\nos.dup2(w, 2)\nos.close(w)\nos.close(r)\n"
    for form in log.FORMATS:
        ended = python(f"{code}with log.to_stderr('{form}'):\n    log.say('plan', 'x')\n    print('went on')")
        assert (ended.stdout, ended.returncode) == ("went on\n", 0)


def test_without_logging_a_program_sees_lines_and_with_it_gets_records() -> None:
    """`run(config)` in somebody's own Python."""
    unasked = python("from jobs.log import say, writes_lines\nsay('plan', 'x')\nprint(writes_lines())")
    assert (unasked.stderr, unasked.stdout) == ("plan      x\n", "True\n")
    form = "%(name)s %(event)s %(run)s %(fields)s %(message)s"
    asked = python(
        f"import logging, sys\nlogging.basicConfig(level='DEBUG', stream=sys.stdout, format='{form}')\n"
        "from jobs import log\nlog.set_run('r1')\n"
        "log.say('shard', 'x', level=logging.DEBUG, rows=3)\nprint(log.writes_lines())"
    )
    assert (asked.stderr, asked.stdout) == ("", "coyo_jobs shard r1 {'rows': 3} x\nFalse\n")


def test_progress_is_an_event_with_the_numbers_of_the_output(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_EVENT_EVERY", 0.0)
    there = now(after(13_000, 12_500, finished=2), FRESH, 10.0)
    with caplog.at_level(logging.INFO, LOGGER.name), progress.Display() as display:
        display.show(there)
    (record,) = caplog.records
    fields = record.__dict__["fields"]
    assert (record.__dict__["event"], fields["rows"], fields["rejects"], fields["rate"]) == (
        "progress",
        12_500,
        3,
        1250,
    )
    assert (fields["shards_read"], fields["shards_left"], fields["reasons"]) == (2, 8, there.reasons)
    assert capsys.readouterr() == ("", "")


def test_an_error_says_more_to_a_machine_and_survives_the_way_through_ray(capfd: pytest.CaptureFixture[str]) -> None:
    import pickle

    error = ClusterError("no GPU", "buy one")
    error.log_fields["shard"] = "a.tar"
    assert pickle.loads(pickle.dumps(error)).log_fields == {"shard": "a.tar"}


def test_a_wrong_recipe_is_an_event_with_the_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nowhere.yaml", "--log", "json"]) == 2
    (event,) = events(capfd.readouterr().err)
    assert (event["event"], event["level"], event["error"], event["code"]) == ("error", "error", "ConfigError", 2)
    assert (event["message"], event["hint"][:14]) == ("nowhere.yaml: no such recipe", "coyo-jobs init")


def test_a_whole_run_in_events(
    ray_session: None, scenes_parquet: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a Ray of its own, and stopped: tests/end_to_end/test_run.py."""
    (tmp_path / "job.yaml").write_text(demo_job(scenes_parquet, tmp_path / "out", compute={"device": "cpu"}).to_yaml())
    assert main(["run", str(tmp_path / "job.yaml"), "--log", "json"]) == 0
    out, err = capfd.readouterr()
    said = [event for event in events(err) if event["event"] != "progress"]  # one every 30 s, on a busy machine
    assert [e["event"] for e in said] == ["source", "model", "model", "plan", "shard", "shard", "shard", "finished"]
    summary = json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert {event["run"] for event in said} == {summary["run"]["id"]}
    shards = [event for event in said if event["event"] == "shard"]
    assert sorted(event["shard"] for event in shards) == [f"part-{n:05d}.parquet" for n in range(3)]
    assert sum(event["rows"] for event in shards) == summary["rows"] + summary["rejects"] == said[-1]["rows"] == 120
    reasons: dict[str, int] = {}
    for event in shards:
        assert event["rejects"] == sum(event["reasons"].values())
        reasons |= {reason: reasons.get(reason, 0) + count for reason, count in event["reasons"].items()}
    assert reasons == summary["reasons"] == said[-1]["reasons"]
    assert len(reasons) == 3
    assert out.startswith("116 rows and 4 rejects from 3 shards in ")
