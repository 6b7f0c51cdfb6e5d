"""Results are joined to their metadata by id or by url; every metadata row is counted."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import FAILED, USAGE_ERROR, main
from jobs.errors import JobError, OutputError, SourceError
from jobs.exports.join import JoinSummary, join
from jobs.log import to_stderr
from jobs.output import footer
from jobs.output.layout import EXPORT
from jobs.storage import Storage
from tests.support.exported import KEPT, NAMES, Row, read, row, write_output

COYO = {"id": "key", "url": "url", "text": "text", "width": "width", "image_phash": "image_phash"}
ADDED = ["labels", "label_probs", "image_embedding", "text_embedding", "similarity"]
WITHOUT_TEXT = {name: kind for name, kind in KEPT.items() if name != "text"}


def metadata(folder: Path, indices: list[int], files: int = 1, *, columns: dict[str, str] = COYO) -> str:
    """COYO-like metadata of these rows, in this order, in several files beside a marker."""
    for number, part in enumerate(np.array_split(np.array(indices), files)):
        rows = [row(int(index)) for index in part]
        table = pa.table({name: pa.array([one[ours] for one in rows]) for name, ours in columns.items()})
        table = table.append_column("score", pa.array(part.astype(np.float32)))
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({"spark": "says"}), sink, row_group_size=7)
        Storage().put(f"{folder}/part-{number:05d}-c000.snappy.parquet", memoryview(sink.getvalue()))
    Storage().put(f"{folder}/_SUCCESS", b"")
    return str(folder)


def keyless(given: Row) -> Row:
    return {**given, "key": None}


def check(joined: pa.Table, indices: list[int], known: int = 50) -> None:
    """Each metadata row has its own result, or nulls where there is none."""
    assert joined.column("score").to_pylist() == indices
    for one in joined.to_pylist():
        index = int(one["score"])
        wanted = row(index) if index < known else {}
        assert {name: one[name] for name in ADDED} == {name: wanted.get(name) for name in ADDED}, index


def refusal(*command: Any) -> str:
    with pytest.raises(JobError) as caught:
        join(*map(str, command))
    return str(caught.value)


@pytest.mark.parametrize("place", ["local", "s3"])
def test_every_row_of_the_metadata_keeps_its_place_and_gains_its_result(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    where = str(tmp_path) if place == "local" else request.getfixturevalue("bucket")
    indices = random.Random(0).sample(range(70), 70)
    given = metadata(f"{where}/coyo", indices, 3)  # type: ignore[arg-type]
    output = write_output(f"{where}/out")
    assert main(["join", output, given, f"{where}/to"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"70 rows of metadata in 3 files in {where}/to, joined by id",
        "  matched              50  have a result",
        "  unmatched            20  have no result",
        "  ambiguous             0  have several different results, and get none",
    ]
    assert "join      by id: id of the metadata, key of the output" in said.err
    joined = read(f"{where}/to")
    check(joined, indices)
    before = read(given)
    assert joined.column_names == [*before.column_names, *ADDED]
    assert joined.select(before.column_names) == before
    names = [entry.path.rpartition("/")[2] for entry in Storage().list_files(given)]
    assert [entry.path.rpartition("/")[2] for entry in Storage().list_files(f"{where}/to")] == [EXPORT, *names[1:]]


def test_class_ids_have_their_names_and_the_metadata_its_own_footer(tmp_path: Path) -> None:
    join(write_output(tmp_path / "out"), metadata(tmp_path / "coyo", [1]), str(tmp_path / "to"))
    (path,) = (tmp_path / "to").glob("*.parquet")
    footer = pq.read_schema(path).metadata
    assert footer[b"spark"] == b"says"
    assert footer[b"coyo_jobs.label_names"] == str(list(NAMES)).replace("'", '"').encode()


@pytest.mark.parametrize("kind", [pa.int32(), pa.uint64()], ids=str)
def test_ids_match_in_any_width(tmp_path: Path, kind: pa.DataType) -> None:
    given = Path(metadata(tmp_path / "coyo", list(range(50))))
    (path,) = given.glob("*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "id", table.column("id").cast(kind)), path)
    assert join(write_output(tmp_path / "out"), str(given), str(tmp_path / "to")).counts["matched"] == 50


def test_an_id_that_was_kept_beside_tar_keys_is_the_id(tmp_path: Path) -> None:
    kept = {**KEPT, "id": pa.int64()}
    output = write_output(
        tmp_path / "out", kept=kept, key=pa.string(), change=lambda one: {**one, "id": one["key"], "key": "000001"}
    )
    joined = join(output, metadata(tmp_path / "coyo", [3, 60]), str(tmp_path / "to"))
    assert (joined.by, joined.counts) == ("id", {"matched": 1, "unmatched": 1, "ambiguous": 0})


@pytest.mark.parametrize(("named", "columns"), [("key", ["id", "url"]), ("key", ["key", "id"]), ("", ["key", "id"])])
def test_a_key_is_not_taken_for_another_columns_id(tmp_path: Path, named: str, columns: list[str]) -> None:
    """A source with `key` and `id` was joined back by `key` to its `id`: 40 of 50 rows had others' labels."""
    output = write_output(tmp_path / "out", key_column=named, change=lambda one: {**one, "key": one["row"]})
    held = {"key": range(50), "id": reversed(range(50)), "url": [row(index)["url"] for index in range(50)]}
    table = pa.table({name: list(held[name]) for name in columns}).append_column("score", pa.array(np.arange(50.0)))
    Storage().put(f"{tmp_path}/coyo/0.parquet", footer.parquet_bytes(table, {}))
    assert join(output, f"{tmp_path}/coyo", f"{tmp_path}/to").by == ("id" if "key" in columns else "url")
    check(read(tmp_path / "to"), list(range(50)))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_without_ids_rows_join_by_url_and_text(tmp_path: Path, kind: pa.DataType) -> None:
    """One picture with two captions is two rows, each with its own similarity."""

    def change(given: Row) -> Row:
        return {**keyless(given), "url": "same", "text": f"caption {given['row']}"}

    output = write_output(tmp_path / "out", change=change)
    (tmp_path / "coyo").mkdir()
    texts = [f"caption {index}" for index in range(60)]
    table = pa.table({"url": ["same"] * 60, "text": pa.array(texts).cast(kind), "score": np.arange(60, dtype="f4")})
    pq.write_table(table, tmp_path / "coyo" / "0.parquet")
    joined = join(output, str(tmp_path / "coyo"), str(tmp_path / "to"))
    assert (joined.by, joined.counts) == ("url and text", {"matched": 50, "unmatched": 10, "ambiguous": 0})
    check(read(tmp_path / "to"), list(range(60)))


def test_without_kept_texts_rows_join_by_url_and_the_log_reports_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = write_output(tmp_path / "out", kept=WITHOUT_TEXT, change=keyless)
    with to_stderr("text"):
        joined = join(output, metadata(tmp_path / "coyo", [4, 5, 99]), str(tmp_path / "to"))
    assert (joined.by, joined.counts) == ("url", {"matched": 2, "unmatched": 1, "ambiguous": 0})
    assert "rows are joined by url only (source.keep keeps texts)" in capsys.readouterr().err
    check(read(tmp_path / "to"), [4, 5, 99])


def twins(**second: Any) -> list[Row]:
    """Ten rows, then the first again in another place, with something else about it."""
    again = {**row(0), **{name: value for name, value in second.items() if value is not None}}
    return [*map(row, range(10)), {**again, "row": 10, "_since": 10}]


@pytest.mark.parametrize(
    ("second", "counts"),
    [
        ({}, {"matched": 11, "unmatched": 0, "ambiguous": 0}),
        ({"similarity": 0.25}, {"matched": 9, "unmatched": 0, "ambiguous": 2}),
        ({"labels": [1, 0]}, {"matched": 9, "unmatched": 0, "ambiguous": 2}),
        ({"image_embedding": row(1)["image_embedding"]}, {"matched": 9, "unmatched": 0, "ambiguous": 2}),
    ],
    ids=["the same", "similarity", "labels", "embedding"],
)
def test_one_key_with_results_that_differ_is_ambiguous_and_gets_none(
    tmp_path: Path, second: dict[str, Any], counts: dict[str, int]
) -> None:
    """The first of two would be an arbitrary one; two that say the same are one."""
    output = write_output(tmp_path / "out", twins(**second), per_object=6)
    indices = [*range(10), 0]
    assert join(output, metadata(tmp_path / "coyo", indices), str(tmp_path / "to")).counts == counts
    for one in read(tmp_path / "to").to_pylist():
        known = one["score"] > 0 or not second
        assert one["labels"] == (row(int(one["score"]))["labels"] if known else None)


def test_only_the_chosen_columns_are_added_and_compared(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", twins(similarity=0.25))
    joined = join(output, metadata(tmp_path / "coyo", [0, 1]), str(tmp_path / "to"), ["label_probs", "labels"])
    assert joined.counts == {"matched": 2, "unmatched": 0, "ambiguous": 0}
    assert read(tmp_path / "to").column_names[-3:] == ["score", "label_probs", "labels"]


def test_null_keys_match_nothing(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", change=lambda one: {**keyless(one), "url": None if one["row"] else "u"})
    given = Path(metadata(tmp_path / "coyo", list(range(5))))
    (path,) = given.glob("*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "url", pa.array([None] * 5, pa.string())), path)
    assert join(output, str(given), str(tmp_path / "to")).counts["unmatched"] == 5


def test_more_rows_than_one_batch_join_as_a_dictionary_would(tmp_path: Path) -> None:
    """Keys that repeat on both sides, in another order, over several batches and objects."""
    dice = random.Random(1)
    results = [
        {**row(i % 40), "row": i, "_since": i, "key": dice.randrange(9000), "similarity": i % 2 / 2}
        for i in range(18_000)
    ]
    output = write_output(tmp_path / "out", results, per_object=5000)
    asked = [dice.randrange(12_000) for _ in range(40_000)]
    (tmp_path / "coyo").mkdir()
    for number in range(2):
        part = asked[number * 20_000 : (number + 1) * 20_000]
        pq.write_table(pa.table({"id": part}), tmp_path / "coyo" / f"{number}.parquet")
    joined = join(output, str(tmp_path / "coyo"), str(tmp_path / "to"), ["labels", "similarity"])
    said: dict[int, set[Any]] = {}
    for one in results:
        said.setdefault(one["key"], set()).add((*one["labels"], one["similarity"]))
    fates = [len(said.get(key, ())) for key in asked]
    wanted = [next(iter(said[key])) if fate == 1 else None for key, fate in zip(asked, fates, strict=True)]
    table = read(tmp_path / "to")
    assert table.column("id").to_pylist() == asked
    given = [(*one["labels"], one["similarity"]) if one["labels"] else None for one in table.to_pylist()]
    assert given == wanted
    matched = sum(fate == 1 for fate in fates)
    assert joined.counts == {
        "matched": matched,
        "unmatched": fates.count(0),
        "ambiguous": 40_000 - matched - fates.count(0),
    }


def test_a_killed_join_goes_on_and_a_complete_one_says_so(tmp_path: Path) -> None:
    output, given = write_output(tmp_path / "out"), metadata(tmp_path / "coyo", list(range(60)), 3)
    first = join(output, given, str(tmp_path / "to"))
    assert join(output, given, str(tmp_path / "to")) == JoinSummary(**{**vars(first), "created": False})
    (tmp_path / "to" / EXPORT).unlink()
    paths = sorted((tmp_path / "to").glob("*.parquet"))
    paths[1].unlink()
    before = [path.stat().st_mtime_ns for path in (paths[0], paths[2])]
    assert join(output, given, str(tmp_path / "to")) == first
    assert [path.stat().st_mtime_ns for path in (paths[0], paths[2])] == before
    check(read(tmp_path / "to"), list(range(60)))


def test_another_metadata_or_other_columns_need_a_folder_of_their_own(tmp_path: Path) -> None:
    output, given = write_output(tmp_path / "out"), metadata(tmp_path / "coyo", list(range(60)), 3)
    join(output, given, str(tmp_path / "to"))
    with pytest.raises(OutputError, match="columns was"):
        join(output, given, str(tmp_path / "to"), ["labels"])
    metadata(tmp_path / "coyo", list(range(90)), 3)
    assert "metadata was" in refusal(output, given, tmp_path / "to")
    assert f"lies inside {given}" in refusal(output, given, f"{given}/joined")
    assert f"lies inside {output}" in refusal(output, given, f"{output}/joined")


def test_nothing_to_join_by_names_source_keep(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", kept={"width": pa.int32()}, change=keyless)
    said = refusal(output, metadata(tmp_path / "coyo", [1]), tmp_path / "to")
    assert "nothing to join by" in said
    assert "source.keep copies columns to the output" in said
    with pytest.raises(SourceError, match="no Parquet files found"):
        join(output, str(tmp_path / "nowhere"), str(tmp_path / "to"))
    assert not (tmp_path / "to").exists()


def test_wrong_columns_fail_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, given = write_output(tmp_path / "out"), metadata(tmp_path / "coyo", [1, 2], 2)
    assert main(["join", output, given, str(tmp_path / "to"), "--columns", "labels,label"]) == USAGE_ERROR
    assert "hint: the results: labels, label_probs, image_embedding" in capsys.readouterr().err
    pq.write_table(pa.table({"id": [1], "labels": [1]}), tmp_path / "coyo" / "z.parquet")
    assert main(["join", output, given, str(tmp_path / "to")]) == FAILED
    assert "z.parquet: has a column 'labels' already" in capsys.readouterr().err
    for other in ({"key": [1]}, {"id": ["1"]}):
        pq.write_table(pa.table(other), tmp_path / "coyo" / "z.parquet")
        assert "z.parquet: no column 'id' of integer, which the first file has" in refusal(
            output, given, tmp_path / "to"
        )
    assert not (tmp_path / "to").exists()


def test_a_damaged_file_of_metadata_is_named_and_half_of_it_is_not_there(tmp_path: Path) -> None:
    output, given = write_output(tmp_path / "out"), metadata(tmp_path / "coyo", list(range(60)), 2)
    path = sorted(Path(given).glob("*.parquet"))[1]
    whole = bytearray(path.read_bytes())
    middle = pq.read_metadata(path).row_group(2).column(1).data_page_offset
    whole[middle : middle + 40] = bytes(40)
    path.write_bytes(whole)
    assert f"{path}: cannot be read as Parquet" in refusal(output, given, tmp_path / "to")
    assert [entry.name for entry in (tmp_path / "to").iterdir()] == ["part-00000-c000.snappy.parquet"]
    path.write_bytes(whole[:-4])
    assert f"{path}: cannot be read as Parquet" in refusal(output, given, tmp_path / "to2")
