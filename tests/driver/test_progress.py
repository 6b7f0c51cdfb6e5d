"""The line a person sees while a job runs."""

from pathlib import Path

import pytest

from jobs.driver import progress as progressing
from jobs.driver.progress import Display, publish, read_progress
from jobs.driver.run_state import RunState
from jobs.driver.tasks import Work
from jobs.log import to_stderr
from jobs.storage import Storage
from tests.support.progress import FRESH, after, now


def line(seen: RunState, work: Work, seconds: float) -> str:
    return str(now(seen, work, seconds))


def test_before_the_first_batch_it_says_what_is_going_on() -> None:
    """Models of several GB load for a minute; a line of zeros looks like a hang."""
    assert line(RunState(), FRESH, 7.4) == "7 s  starting: loading models"
    assert "starting" in line(after(300, 0), FRESH, 7.4)


def test_until_a_shard_is_finished_no_total_is_invented() -> None:
    assert line(after(3_000, 2_500), FRESH, 10.0) == "2,500 rows  250.0 rows/s  3 rejects  0 of 10 shards read"


def test_the_total_is_estimated_from_the_bytes_of_finished_shards() -> None:
    said = line(after(13_000, 12_500, finished=2), FRESH, 10.0)
    assert said.startswith("12,500 of about 50,000 rows  1,250.0 rows/s")
    assert said.endswith("2 of 10 shards read  0:30 left")


def test_the_total_is_exact_when_everything_is_read() -> None:
    said = line(after(50_000, 40_000, finished=10), FRESH, 100.0)
    assert said.startswith("40,000 of 50,000 rows")
    assert said.endswith("10 of 10 shards read  0:25 left")


def test_a_resumed_run_counts_what_was_there_and_rates_what_it_does() -> None:
    """A rate that includes yesterday's rows promises an end that never comes."""
    resumed = Work(tasks=(), shards=10, shards_done=4, rows_done=20_000, bytes_left=6_000)
    said = line(after(13_000, 10_000, finished=2), resumed, 100.0)
    assert said.startswith("30,000 of about 50,000 rows  100.0 rows/s")
    assert said.endswith("6 of 10 shards read  3:20 left")
    assert line(after(30_000, 30_000, finished=6), resumed, 100.0).startswith("50,000 of 50,000 rows")


def test_long_runs_show_hours() -> None:
    assert line(after(5_000, 1_000, finished=1), FRESH, 1_000.0).endswith("13:36:40 left")


def test_rows_that_a_retry_counted_twice_never_give_negative_time() -> None:
    assert line(after(50_000, 51_000, finished=10), FRESH, 10.0).endswith("0:00 left")


def test_a_run_that_ended_says_how_and_promises_nothing() -> None:
    said = str(now(after(13_000, 12_500, finished=2), FRESH, 10.0, "stopped"))
    assert said.startswith("stopped  12,500 of about 50,000 rows")
    assert "left" not in said


def test_a_clock_that_has_not_moved_divides_by_nothing() -> None:
    assert "starting" in line(after(10, 10), FRESH, 0.0)


def test_what_is_published_is_read_back_part_by_part(tmp_path: Path) -> None:
    """Whoever looks is at another machine, and N parts write into one output."""
    first, second = (now(after(10, 5), FRESH, 1.0, state) for state in ("running", "finished"))
    assert read_progress(Storage(), str(tmp_path / "nowhere")) == []
    publish(Storage(), str(tmp_path), "-1of2", first)
    publish(Storage(), str(tmp_path), "-2of2", second)
    publish(Storage(), str(tmp_path), "-1of2", first)
    assert read_progress(Storage(), str(tmp_path)) == [first, second]


def test_off_a_terminal_a_line_comes_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none in a run that is over before."""
    for every in (10.0, 0.0):
        monkeypatch.setattr(progressing, "_LINE_EVERY", every)
        with to_stderr("text"), Display() as display:
            display.show(now(after(10, 5), FRESH, 1.0))
    assert capsys.readouterr() == ("", "5 rows  5.0 rows/s  3 rejects  0 of 10 shards read\n")
