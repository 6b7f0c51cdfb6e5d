"""What a job will take is said before it runs, from a trial, and nothing is written."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from jobs.commands.plan import forecast
from jobs.config import JobConfig
from jobs.errors import SourceError
from tests.support.recipes import demo_job


def job(source: Path, output: Path, **keys: Any) -> JobConfig:
    tree = demo_job(source, output).model_dump()
    return JobConfig.from_dict({**tree, "source": {"path": str(source), "keep": [], **keys}})


def test_a_trial_counts_what_the_run_would_count(scenes_parquet: Path, tmp_path: Path) -> None:
    found = forecast(job(scenes_parquet, tmp_path / "out"), rows=120)
    assert (found.shards, found.shards_done, found.rows, found.about) == (3, 0, 120, False)
    assert found.tried == 120
    assert sum(found.reasons.values()) > 0
    assert found.selected == 1.0
    assert found.bytes_to_read == sum(path.stat().st_size for path in scenes_parquet.glob("*.parquet"))
    assert 0 < found.bytes_to_write < 1_000_000
    assert found.objects == 2
    assert min(found.decode_rate, found.model_rate, found.seconds) > 0
    assert found.cost is None
    assert "3, 0 of them finished" in str(found)
    assert not (tmp_path / "out").exists()


def test_tars_are_estimated(scenes_tars: Path, tmp_path: Path) -> None:
    found = forecast(job(scenes_tars, tmp_path / "out"), rows=60)
    assert found.about
    assert found.rows == pytest.approx(120, rel=0.5)


def test_a_selection_is_counted_in(scenes_parquet: Path, tmp_path: Path) -> None:
    config = job(scenes_parquet, tmp_path / "out", sample={"fraction": 0.5})
    found = forecast(config, rows=60)
    assert found.selected == pytest.approx(0.5, abs=0.2)
    none = job(scenes_parquet, tmp_path / "out", where="width < 0")
    with pytest.raises(SourceError, match="no row is selected"):
        forecast(none, rows=60)


def test_the_command_prints_it_also_as_json(
    scenes_parquet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = job(scenes_parquet, tmp_path / "out")
    (tmp_path / "job.yaml").write_text(config.to_yaml())
    assert main(["plan", str(tmp_path / "job.yaml"), "--rows", "20", "--cpus", "64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cores"] == 64
