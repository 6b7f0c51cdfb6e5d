"""The output is its own ledger: footers say which rows are committed, and nothing else does."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.commands.verify import verify
from jobs.config import JobConfig
from jobs.demo import corpus
from jobs.errors import OutputError
from jobs.output import ledger
from jobs.output.ledger import Ledger, missing
from jobs.row_ranges import Coverage
from jobs.run import run
from jobs.storage import Storage
from tests.support.in_process import without_ray
from tests.support.outputs import addresses, objects
from tests.support.outputs import read as table
from tests.support.recipes import small_job
from tests.support.rows import bad, batch, end, good, writer

WIDER = {pa.int32(): pa.int64()}


def read(path: Path) -> Ledger:
    return ledger.read(Storage(), str(path))


def names(objects: object) -> list[str]:
    assert isinstance(objects, list | tuple)
    return sorted(f"{obj.folder}/{Path(obj.entry.path).name}" for obj in objects)


def test_an_output_that_is_not_there_yet_holds_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / "nowhere").objects == ()
    assert missing({}, ["a"]) == {"a": "0 rows committed, its end not reached"}


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    writer(tmp_path).write(batch(good("a", 0, 1), bad("a", 2)), "p0.parquet")
    writer(tmp_path).write(batch(good("a", 3), bad("b", 0, reason="empty"), end("a", 4)), "p1.parquet")
    found = read(tmp_path)
    assert found.coverage == {"a": Coverage(((0, 4),), 4), "b": Coverage(((0, 1),))}
    assert (found.count_rows("rows"), found.count_rows("rejects")) == (3, 2)
    assert found.reasons == {"truncated": 1, "empty": 1}
    assert {obj.run for obj in found.objects} == {"r1"}
    assert missing(found.coverage, ["a", "b"]) == {"b": "1 rows committed, its end not reached"}


def test_missing_says_what_is_missing() -> None:
    coverage = {
        "whole": Coverage(((0, 4),), 4),
        "empty": Coverage((), 0),
        "holed": Coverage(((0, 2), (3, 4)), 4),
        "open": Coverage(((0, 4),)),
        "other": Coverage(((0, 9),), 9),
    }
    assert missing(coverage, ["whole", "empty"]) == {}
    assert missing(coverage, ["whole", "holed", "open", "unread"]) == {
        "holed": "3 of 4 rows committed",
        "open": "4 rows committed, its end not reached",
        "unread": "0 rows committed, its end not reached",
    }


def test_an_end_that_only_the_rejects_saw_counts(tmp_path: Path) -> None:
    writer(tmp_path).write(batch(good("a", 0)), "p0.parquet")
    writer(tmp_path).write(batch(end("a", 1)), "p1.parquet")
    assert missing(read(tmp_path).coverage, ["a"]) == {}


def test_markers_and_temporary_files_are_not_objects(tmp_path: Path) -> None:
    """A writer that is killed between write and rename leaves its temporary file for ever."""
    writer(tmp_path).write(batch(good("a", 0)), "p0.parquet")
    (tmp_path / "rows" / "_SUCCESS").touch()
    (tmp_path / "rows" / ".p1.parquet.0123.tmp").write_bytes(b"PAR1 half")
    assert names(read(tmp_path).objects) == ["rows/p0.parquet"]


@pytest.mark.parametrize("length", [0, 3, -1, -30])
def test_a_cut_object_is_an_error_that_names_it(tmp_path: Path, length: int) -> None:
    writer(tmp_path).write(batch(good("a", 0)), "p0.parquet")
    path = tmp_path / "rows" / "p0.parquet"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(OutputError, match=r"p0\.parquet: not a whole Parquet object") as caught:
        read(tmp_path)
    assert "delete it and run again" in caught.value.hint


def test_a_foreign_object_is_an_error_that_names_it(tmp_path: Path) -> None:
    """Its rows would be in the folder and in no count."""
    (tmp_path / "rows").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "rows" / "theirs.parquet")
    with pytest.raises(OutputError, match=r"theirs\.parquet: not written by coyo-jobs"):
        read(tmp_path)


def test_late_objects_of_a_dead_run_are_recognised(tmp_path: Path) -> None:
    """A write task outlives its killed driver by seconds, while the next run computes the same rows."""
    writer(tmp_path, "dead").write(batch(good("a", 0, 1)), "dead-0.parquet")
    planned = read(tmp_path)
    writer(tmp_path, "dead").write(batch(good("a", 2), bad("a", 3)), "dead-1.parquet")
    writer(tmp_path, "now").write(batch(good("a", 2, 4), bad("a", 3), end("a", 5)), "now-0.parquet")
    now = read(tmp_path)
    late = now.late(planned, "now")
    assert names(late) == ["rejects/dead-1.parquet", "rows/dead-1.parquet"]
    left = now.without(late)
    assert names(left.objects) == ["rejects/now-0.parquet", "rows/dead-0.parquet", "rows/now-0.parquet"]
    assert (left.count_rows("rows") + left.count_rows("rejects"), missing(left.coverage, ["a"])) == (5, {})


def test_a_late_object_whose_rows_nobody_else_has_stays(tmp_path: Path) -> None:
    """Deleting it would lose rows for good: their shard counts as read."""
    planned = read(tmp_path)
    writer(tmp_path, "dead").write(batch(good("a", 0, 1)), "dead-0.parquet")
    writer(tmp_path, "now").write(batch(good("a", 1, 2), end("a", 3)), "now-0.parquet")
    assert read(tmp_path).late(planned, "now") == []


def test_an_object_with_a_row_twice_is_dropped_and_its_rows_computed_again(tmp_path: Path) -> None:
    """Each run said that the next one would drop what is there twice, and none did."""
    writer(tmp_path).write(batch(good("a", 0, 1, 1), end("a", 4)), "p0.parquet")
    writer(tmp_path).write(batch(good("a", 2, 3)), "p1.parquet")
    now = read(tmp_path)
    assert names(now.overlapping()) == ["rows/p0.parquet"]
    assert missing(now.without(now.overlapping()).coverage, ["a"]) == {"a": "2 rows committed, its end not reached"}


def test_an_end_that_only_a_run_over_another_part_has_stays(tmp_path: Path) -> None:
    """Two runs over two parts finish together; the first deleted the proof that the other's shard is complete."""
    planned = read(tmp_path)
    writer(tmp_path, "other").write(batch(good("b", 0)), "other-0.parquet")
    writer(tmp_path, "other").write(batch(end("b", 1)), "other-1.parquet")
    writer(tmp_path, "now").write(batch(good("a", 0), end("a", 1)), "now-0.parquet")
    now = read(tmp_path)
    assert missing(now.without(now.late(planned, "now")).coverage, ["a", "b"]) == {}


def test_objects_that_were_there_before_are_never_late(tmp_path: Path) -> None:
    writer(tmp_path, "r1").write(batch(good("a", 0)), "p0.parquet")
    planned = read(tmp_path)
    writer(tmp_path, "r2").write(batch(good("a", 1), end("a", 2)), "p1.parquet")
    assert read(tmp_path).late(planned, "r2") == []


def test_a_name_with_any_character_is_one_shard(tmp_path: Path) -> None:
    name = 'dir/é "quoted" {0}.parquet'
    writer(tmp_path).write(batch(good(name, 0), end(name, 1)), "p0.parquet")
    assert missing(read(tmp_path).coverage, [name]) == {}


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    """A finished job in several objects; its source may get more shards."""
    home = tmp_path_factory.mktemp("grown")
    corpus.write_parquet(home / "in", 6, 8)
    config = small_job(home / "in", home / "out")
    with without_ray():
        assert run(config).run["rows"] == 48
    return config


@pytest.mark.parametrize("announced", [True, False])
def test_a_lost_object_is_computed_again_and_nothing_else(
    no_ray: None, grown: JobConfig, tmp_path: Path, announced: bool
) -> None:
    """Somebody deletes a file of last month's output; the same command mends it, with or without _SUCCESS."""
    out = str(tmp_path / "out")
    shutil.copytree(grown.output.path, out)
    whole = addresses(table(out, "rows"), table(out, "rejects"))
    lost = sorted((tmp_path / "out" / "rows").iterdir())[-1]
    count = pq.read_metadata(lost).num_rows
    assert count < len(whole)
    lost.unlink()
    if not announced:
        (tmp_path / "out" / "_SUCCESS").unlink()
    before = objects(out)
    assert run(small_job(str(grown.source.path), out)).run["rows"] == count
    after = objects(out)
    assert {name for name in before if "/part-" in name and after.get(name) != before[name]} == set()
    assert addresses(table(out, "rows"), table(out, "rejects")) == whole
    assert f"{out}/_SUCCESS" in after


def test_a_shard_that_is_added_later_is_processed_and_only_it(
    no_ray: None, grown: JobConfig, scenes_parquet: Path
) -> None:
    """Also where it is the first now, and has other types: those of the rows that are there are the output's."""
    before = objects(grown.output.path)
    later = pq.read_table(scenes_parquet / "part-00002.parquet")
    later = later.cast(pa.schema([field.with_type(WIDER.get(field.type, field.type)) for field in later.schema]))
    pq.write_table(later, f"{grown.source.path}/later.parquet")
    summary = run(grown)
    assert (summary.shards, summary.rows + summary.rejects, summary.run["rows"]) == (7, 88, 40)
    after = objects(grown.output.path)
    assert {name for name in before if "/part-" in name and after.get(name) != before[name]} == set()
    assert table(grown.output.path, "rows").column("shard").to_pylist().count("later.parquet") == 39
    assert [check.claim for check in verify(grown.output.path) if not check.ok] == []
