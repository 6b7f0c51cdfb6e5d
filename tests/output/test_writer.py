"""Annotated rows become whole objects that say what they hold."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import schema
from jobs.driver.coordinator import Coordinator
from jobs.output import footer
from jobs.output.writer import Writer
from jobs.pipeline.write import ParquetSink
from jobs.row_ranges import Coverage
from jobs.storage import Storage
from tests.support.rows import ANNOTATED, SPEC, bad, batch, end, good, writer


def provenance_of(path: Path) -> tuple[dict[str, Coverage], dict[str, str]]:
    return footer.decode_provenance(pq.read_metadata(path).metadata[b"coyo_jobs.provenance"])


def test_rows_and_rejects_part_ways(tmp_path: Path) -> None:
    writer(tmp_path).write(batch(good("a", 0, 2), bad("a", 1), end("a", 3)), "p.parquet")
    rows, rejects = (pq.read_table(tmp_path / folder / "p.parquet") for folder in ("rows", "rejects"))
    assert rows.column_names == ["shard", "row", "key", "url", "labels", "label_probs"]
    assert rows.column("row").to_pylist() == [0, 2]
    assert rows.column("key").to_pylist() == [1000, 1002]
    assert rejects.to_pylist() == [
        {"shard": "a", "row": 1, "key": 1001, "stage": "decode", "reason": "truncated", "message": "cut"}
    ]
    assert [field.name for field in rejects.schema if not field.nullable] == [
        "shard", "row", "stage", "reason", "message",
    ]  # fmt: skip


def test_footers_list_the_ranges_and_one_of_them_the_ends(tmp_path: Path) -> None:
    table = batch(good("a", 0, 1, 2, 7), good("b", 5), bad("a", 3, 4), end("a", 8, "cut"))
    writer(tmp_path).write(table, "p.parquet")
    shards, about = provenance_of(tmp_path / "rows" / "p.parquet")
    assert shards == {"a": Coverage(((0, 3), (7, 8)), 8, "cut"), "b": Coverage(((5, 6),))}
    assert about["run"] == "r1"
    assert json.loads(about["reasons"]) == {}
    shards, about = provenance_of(tmp_path / "rejects" / "p.parquet")
    assert shards == {"a": Coverage(((3, 5),))}
    assert json.loads(about["reasons"]) == {"truncated": 2}


def test_rows_answer_for_the_unselected_ones_before_them(tmp_path: Path) -> None:
    rows = [row | {"_since": since} for row, since in zip(good("a", 2, 3, 9), (0, 3, 6), strict=True)]
    passed = [{"shard": "a", "row": 6, "_since": 4, "_end": True}]
    closed = [end("a", 12)[0] | {"_since": 10}]
    writer(tmp_path).write(batch(rows, passed, closed), "p.parquet")
    (part,) = provenance_of(tmp_path / "rows" / "p.parquet")[0].values()
    assert part == Coverage(((0, 12),), 12, unselected=9)
    assert (part.complete, part.count) == (True, 3)


def test_an_object_says_which_model_and_which_label_names(tmp_path: Path) -> None:
    """Class 7 means nothing to whoever gets one file of the output by mail."""
    writer(tmp_path).write(batch(good("a", 0)), "p.parquet")
    metadata = pq.read_schema(tmp_path / "rows" / "p.parquet").metadata
    assert json.loads(metadata[b"coyo_jobs.label_names"]) == ["cat", "dog"]
    assert json.loads(metadata[b"coyo_jobs.models"])["vit"]["revision"] == "sha256:0"


@pytest.mark.parametrize(("labels", "there"), [(("cat", "dog"), True), (("x" * 1000,) * 100, False)])
def test_zero_shot_labels_are_in_a_footer_unless_they_would_fill_it(
    labels: tuple[str, ...], there: bool, tmp_path: Path
) -> None:
    """A run that goes on reads the footer of every object: with a megabyte in each it would never begin."""
    spec = replace(SPEC, kind="align", fields=tuple(schema.zero_shot()), labels=labels)
    annotated = schema.annotated(schema.raw(pa.int64(), []), spec.fields)
    row = {
        "shard": "a",
        "row": 0,
        "_since": 0,
        "_end": False,
        "zero_shot_labels": [1, 0],
        "zero_shot_probs": [0.75, 0.25],
    }
    table = pa.Table.from_pylist([row], schema=annotated)
    Writer(Storage(), str(tmp_path), annotated, (spec,), {"run": "r", "job": "f"}).write(table, "p.parquet")
    metadata = pq.read_schema(tmp_path / "rows" / "p.parquet").metadata
    assert (metadata.get(b"coyo_jobs.zero_shot_label_names") == json.dumps(labels).encode()) is there
    assert (b"coyo_jobs.zero_shot_label_names" in metadata) is there
    assert b"coyo_jobs.label_names" not in metadata


def test_only_good_rows_make_only_one_object(tmp_path: Path) -> None:
    writer(tmp_path).write(batch(good("a", 0), end("a", 1)), "p.parquet")
    assert [path.parent.name for path in tmp_path.rglob("*.parquet")] == ["rows"]


def test_a_batch_of_nothing_but_ends_leaves_its_proof(tmp_path: Path) -> None:
    """The end of a shard that travels alone, or of an empty shard, would be lost: the job could never finish."""
    writer(tmp_path).write(batch(end("a", 40), end("empty", 0)), "p.parquet")
    (path,) = tmp_path.rglob("*.parquet")
    assert provenance_of(path)[0] == {"a": Coverage((), 40), "empty": Coverage((), 0)}
    assert pq.read_metadata(path).num_rows == 0


@pytest.mark.parametrize("folder", ["rows", "rejects"])
def test_an_empty_object_has_the_schema_of_its_folder(tmp_path: Path, folder: str) -> None:
    writer(tmp_path).write(batch(good("a", 0), bad("a", 1)), "p.parquet")
    writer(tmp_path).write_empty(folder, "empty.parquet")
    empty = pq.read_table(tmp_path / folder / "empty.parquet")
    assert empty.num_rows == 0
    assert empty.schema.equals(pq.read_schema(tmp_path / folder / "p.parquet"))
    assert provenance_of(tmp_path / folder / "empty.parquet")[0] == {}


def test_rows_are_stored_in_the_order_of_their_shard(tmp_path: Path) -> None:
    writer(tmp_path).write(batch(good("b", 1, 0), good("a", 3, 2)), "p.parquet")
    stored = pq.read_table(tmp_path / "rows" / "p.parquet").select(["shard", "row"]).to_pylist()
    assert [(row["shard"], row["row"]) for row in stored] == [("a", 2), ("a", 3), ("b", 0), ("b", 1)]


def test_a_write_task_that_is_repeated_replaces_its_own_objects(tmp_path: Path) -> None:
    """Ray repeats tasks of a node that died; a second name would be a second copy of every row."""
    coordinator = Coordinator()
    sink = ParquetSink(writer(tmp_path), 8, coordinator)
    blocks = [batch(good("a", 0, 1)), batch(bad("a", 2), end("a", 3))]
    for _ in range(2):
        sink.write(blocks, SimpleNamespace(task_idx=3))
    sink.write([batch(good("b", 0))], SimpleNamespace(task_idx=4))
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    rows = ["rows/part-r1-000003.parquet", "rows/part-r1-000004.parquet"]
    assert names == ["rejects", "rejects/part-r1-000003.parquet", "rows", *rows]
    assert sink.min_rows_per_write == 8
    assert coordinator.snapshot().stages["sink"].rows == 7


def test_blocks_without_rows_write_nothing(tmp_path: Path) -> None:
    sink = ParquetSink(writer(tmp_path), 8, Coordinator())
    sink.write([ANNOTATED.empty_table()], SimpleNamespace(task_idx=0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["stage", "reason", "message"])
def test_a_kept_column_may_be_named_like_a_column_of_rejects(tmp_path: Path, name: str) -> None:
    """Any of these is a likely name in somebody's corpus, and the run died in its first write."""
    kept = schema.annotated(schema.raw(pa.int64(), [pa.field(name, pa.string())]), SPEC.fields)
    table = pa.Table.from_pylist([row | {name: "theirs"} for row in bad("a", 0)], schema=kept)
    Writer(Storage(), str(tmp_path), kept, (SPEC,), {"run": "r1"}).write(table, "p.parquet")
    assert pq.read_table(tmp_path / "rejects" / "p.parquet").column("message").to_pylist() == ["cut"]


def test_images_follow_their_rows_when_these_are_put_in_order(tmp_path: Path) -> None:
    """Not by Arrow, which takes nothing out of 2 GiB of them: a thousand photos of a good camera ended a run."""
    kept = schema.annotated(schema.raw(pa.int64(), [pa.field("url", pa.string())]), SPEC.fields, images=True)
    given = [
        [{**row, "_image": str(row["row"]).encode()} for row in good("a", *rows)] for rows in ((6, 7, 8), (0, 2), (1,))
    ]
    table = pa.concat_tables([pa.Table.from_pylist(rows, schema=kept) for rows in given])
    replace(writer(tmp_path), annotated=kept, keep_images="parquet").write(table, "p.parquet")
    held = pq.read_table(tmp_path / "images" / "p.parquet")
    assert held.column("row").to_pylist() == pq.read_table(tmp_path / "rows" / "p.parquet").column("row").to_pylist()
    assert held.column("image").to_pylist() == [b"0", b"1", b"2", b"6", b"7", b"8"]
