"""Which columns and folders an output has, whatever its models and rows are."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.config import JobConfig
from jobs.run import run
from tests.support.recipes import demo_job


def test_a_model_that_is_left_out_leaves_no_columns(no_ray: None, scenes_parquet: Path, tmp_path: Path) -> None:
    """Without ViT, and without texts: tests/end_to_end/test_zero_shot.py."""
    summary = run(demo_job(scenes_parquet / "part-00001.parquet", tmp_path / "out", models={"align": None}))
    assert (summary.rows + summary.rejects, summary.rejects) == (40, 1)
    rows = pq.read_table(tmp_path / "out" / "rows")
    assert rows.column_names == ["shard", "row", "key", "url", "width", "height", "labels", "label_probs"]


def keeping(home: Path, table: pa.Table, *columns: str) -> JobConfig:
    """A job over one shard with this table."""
    (home / "in").mkdir()
    pq.write_table(table, home / "in" / "a.parquet")
    config = demo_job(home / "in", home / "out").model_dump()
    return JobConfig.from_dict(config | {"source": {"path": str(home / "in"), "keep": list(columns)}})


def test_a_source_without_one_good_row_still_has_both_folders(no_ray: None, tmp_path: Path) -> None:
    """Readers that open rows/*.parquet fail where there is none."""
    nulls = pa.table({"image": pa.nulls(3, pa.binary()), "text": ["a", "b", None]})
    config = keeping(tmp_path, nulls)
    pq.write_table(nulls.slice(0, 0), tmp_path / "in" / "empty.parquet")
    summary = run(config)
    assert (summary.shards, summary.rows, summary.reasons) == (2, 0, {"no_image": 3})
    rows = pq.read_table(tmp_path / "out" / "rows")
    assert (rows.num_rows, rows.column_names[:4]) == (0, ["shard", "row", "key", "labels"])


def test_both_folders_are_there_after_a_kill_before_the_last_step(no_ray: None, tmp_path: Path) -> None:
    """A run that is stopped after its last row leaves no object in one folder, and the next has no row to compute."""
    config = keeping(tmp_path, pa.table({"image": pa.nulls(3, pa.binary())}))
    run(config)
    for name in [*(tmp_path / "out" / "rows").iterdir(), tmp_path / "out" / "_SUCCESS"]:
        name.unlink()
    run(config)
    assert pq.read_table(tmp_path / "out" / "rows").column_names[:3] == ["shard", "row", "key"]
