"""Parquet shards: what is copied is unchanged, and every row is a row or a reject."""

import os
import re
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.config import SourceConfig
from jobs.errors import SourceError
from jobs.sources import BLOCK_ROWS, parquet
from jobs.sources.discover import discover
from jobs.storage import Storage
from tests.support.shards import overwrite, read_all, read_one, refusal, write_parquet

HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def thirty(path: Path, compression: str = "snappy") -> Path:
    """Three row groups of ten rows."""
    images = [bytes([65 + n]) * 200 + os.urandom(100) for n in range(30)]
    return write_parquet(path, {"id": list(range(100, 130)), "image": images}, group=10, compression=compression)


@pytest.mark.parametrize(
    "keys",
    [
        pa.array([2**62, -1, None], pa.int64()),
        pa.array([7, 8, 9], pa.uint32()),
        pa.array(["007", "b", None], pa.string()),
        pa.array(["007", "b", "c"], pa.large_string()),
        pa.array([b"\xff", b"b", b"c"], pa.binary()),
    ],
)
def test_the_sources_own_id_keeps_its_type(tmp_path: Path, keys: pa.Array) -> None:
    """COYO's ids do not fit in a float, and 007 is no number."""
    raw = read_one(write_parquet(tmp_path / "0.parquet", {"id": keys, "image": [b"a", b"b", b"c"]}))
    assert raw.table.schema.field("key").type == keys.type
    assert raw.column("key") == keys.to_pylist()


def test_a_source_without_ids_has_null_keys_of_type_string(tmp_path: Path) -> None:
    raw = read_one(write_parquet(tmp_path / "0.parquet", {"image": [b"a"]}))
    assert (raw.table.schema.field("key").type, raw.column("key")) == (pa.string(), [None])


def test_kept_columns_are_copied_with_their_type(tmp_path: Path) -> None:
    kept = {
        "url": pa.array(["u", None], pa.large_string()),
        "width": pa.array([1, 65535], pa.uint16()),
        "when": pa.array([datetime(2026, 11, 1), None], pa.timestamp("us")),
        "price": pa.array([Decimal("1.10"), None], pa.decimal128(9, 2)),
        "tags": pa.array([["a", None], []], pa.list_(pa.string())),
        "about": pa.array([{"nsfw": 0.5}, None], pa.struct([("nsfw", pa.float32())])),
        "text": pa.array(["also the text", None]),
    }
    raw = read_one(write_parquet(tmp_path / "0.parquet", {**kept, "image": [b"a", b"b"]}), keep=list(kept))
    assert {name: raw.table.schema.field(name).type for name in kept} == {name: kept[name].type for name in kept}
    assert {name: raw.column(name) for name in kept} == {name: kept[name].to_pylist() for name in kept}
    assert raw.column("_text") == ["also the text", None]


def test_hugging_face_image_structs_are_read(tmp_path: Path) -> None:
    images = pa.array([{"bytes": b"a", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None], HF_IMAGE)
    raw = read_one(write_parquet(tmp_path / "0.parquet", {"image": images}))
    assert raw.column("_image") == [b"a", None, None]
    assert raw.rejects == {1: "no_image", 2: "no_image"}


def test_null_images_of_img2dataset_are_rejects(tmp_path: Path) -> None:
    """img2dataset's Parquet output has a row for each failed download."""
    columns = {"key": ["0", "1", "2"], "status": ["ok", "failed", "ok"], "jpg": [b"a", None, b""]}
    raw = read_one(write_parquet(tmp_path / "0.parquet", columns))
    assert raw.rejects == {1: "no_image"}
    assert raw.column("key") == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("columns", "keys", "said"),
    [
        ({"x": [1]}, {}, "no column of image bytes or urls; looked for image, jpg"),
        ({"image": ["a.jpg"]}, {}, "no column of image bytes"),
        ({"url": ["http://x"], "text": ["a"]}, {"format": "parquet"}, "has urls but no image bytes"),
        ({"jpg": [b"a"]}, {"image_column": "photo"}, "named 'photo' (source.image_column)"),
        ({"jpg": [b"a"]}, {"keep": ["url"]}, "no column 'url' to keep"),
        ({"jpg": [b"a"]}, {"keep": ["jpg"]}, "'jpg' is the image column"),
        ({"jpg": [b"a"], "text": [5]}, {"text_column": "text"}, "column 'text' is int64, not text"),
        ({"jpg": [b"a"]}, {"text_column": "alt"}, "no column 'alt' (source.text_column)"),
        ({"jpg": [b"a"]}, {"key_column": "uid"}, "no column 'uid' (source.key_column)"),
        ({"jpg": [b"a"], "id": [0.5]}, {"key_column": "id"}, "column 'id' is double, not an id"),
    ],
)
def test_a_layout_that_cannot_work_is_refused_before_the_run(
    tmp_path: Path, columns: dict[str, Any], keys: dict[str, Any], said: str
) -> None:
    message = refusal(write_parquet(tmp_path / "0.parquet", columns), **keys)
    assert said in message
    assert "0.parquet: " in message


def test_a_column_that_cannot_serve_is_not_taken_unasked(tmp_path: Path) -> None:
    """pandas makes ids with one null floats: such a corpus has no ids, and can be run all the same."""
    write_parquet(tmp_path / "0.parquet", {"jpg": [b"a"], "id": [0.5], "text": [5], "caption": ["a cat"]})
    layout = discover(Storage(), SourceConfig(path=str(tmp_path), keep=())).layout
    assert (layout.key, layout.text_names) == (None, ("caption",))


def test_a_later_shard_without_a_column_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "0.parquet", {"jpg": [b"a"], "text": ["a"]})
    write_parquet(tmp_path / "1.parquet", {"jpg": [b"a"]})
    with pytest.raises(SourceError, match=r"1\.parquet: no column 'text'"):
        read_all(tmp_path)


def test_a_later_shards_narrower_numbers_become_the_first_ones_type(tmp_path: Path) -> None:
    write_parquet(tmp_path / "0.parquet", {"jpg": [b"a"], "width": pa.array([1], pa.int64())})
    write_parquet(tmp_path / "1.parquet", {"jpg": [b"a"], "width": pa.array([2], pa.int16())})
    raw = read_all(tmp_path, keep=["width"])["1.parquet"]
    assert (raw.column("width"), raw.table.schema.field("width").type) == ([2], pa.int64())


@pytest.mark.parametrize(
    ("later", "said"),
    [
        ({"width": ["wide"]}, "column 'width' is string, not int64 as in the first shard"),
        ({"width": [[1]]}, "column 'width' is list<element: int64>, not int64"),
        ({"jpg": ["a.jpg"]}, "column 'jpg' is string, not binary"),
        ({"jpg": pa.array([{"bytes": b"a", "path": ""}], HF_IMAGE)}, "not binary as in the first shard"),
        ({"text": [b"\xff"]}, "column 'text' is binary, not string"),
    ],
)
def test_a_later_shard_of_other_types_is_named(tmp_path: Path, later: dict[str, Any], said: str) -> None:
    """Half a corpus of intact shards would become rejects."""
    first = {"jpg": [b"a"], "width": [1], "text": ["a"]}
    write_parquet(tmp_path / "0.parquet", first)
    write_parquet(tmp_path / "1.parquet", first | later)
    with pytest.raises(SourceError) as caught:
        read_all(tmp_path, keep=["width"])
    assert "1.parquet: column " in caught.value.message
    assert said in caught.value.message


def test_a_later_shard_with_nothing_but_nulls_has_no_types(tmp_path: Path) -> None:
    """pandas writes them so, where every download failed."""
    for jpg in (pa.array([b"a"]), pa.array([{"bytes": b"a", "path": ""}], HF_IMAGE)):
        write_parquet(tmp_path / "0.parquet", {"jpg": jpg, "width": [1], "text": ["a"], "error_message": ["e"]})
        write_parquet(tmp_path / "1.parquet", dict.fromkeys(["jpg", "width", "text", "error_message"], pa.nulls(1)))
        raw = read_all(tmp_path, keep=["width"])["1.parquet"]
        assert (raw.rejects, raw.column("width"), raw.column("_text")) == ({0: "no_image"}, [None], [None])


@pytest.mark.parametrize("how", ["cut", "garbage", "empty", "no footer"])
def test_a_file_without_a_footer_is_a_damaged_shard_without_rows(tmp_path: Path, how: str) -> None:
    """One bad file of 3,000 must not stop the other 2,999."""
    whole = thirty(tmp_path / "0.parquet").read_bytes()
    broken = {"cut": whole[:3000], "garbage": os.urandom(3000), "empty": b"", "no footer": whole[:-8] + bytes(8)}
    (tmp_path / "1.parquet").write_bytes(broken[how])
    thirty(tmp_path / "2.parquet")
    raws = read_all(tmp_path)
    assert (raws["1.parquet"].rows, raws["1.parquet"].total) == ([], 0)
    assert "footer cannot be read" in raws["1.parquet"].damage
    assert [raws[name].total for name in ("0.parquet", "2.parquet")] == [30, 30]


@pytest.mark.parametrize(("column", "skip"), [("image", 0), ("image", 60), ("id", 0), ("id", 40)])
def test_the_rows_of_a_corrupt_row_group_are_rejects_and_all_others_are_read(
    tmp_path: Path, column: str, skip: int
) -> None:
    path = thirty(tmp_path / "0.parquet")
    overwrite(path, column, skip, lambda size: b"\xff" * size)
    raw = read_one(path)
    assert raw.rejects == dict.fromkeys(range(10, 20), "shard_damaged")
    assert raw.numbers == list(range(30))
    assert [row["key"] for row in raw.rows if not row["_reason"]] == [*range(100, 110), *range(120, 130)]
    assert (raw.total, "row group 1 cannot be read" in raw.damage) == (30, True)


def test_a_corrupt_row_group_that_is_read_again_gives_only_missing_rejects(tmp_path: Path) -> None:
    path = thirty(tmp_path / "0.parquet")
    overwrite(path, "image", 0, lambda size: b"\xff" * size)
    assert read_one(path, done=((0, 14),)).rejects == dict.fromkeys(range(14, 20), "shard_damaged")


def test_a_row_group_that_ends_early_without_an_error_is_rejects_too(tmp_path: Path) -> None:
    """With one flipped byte in a page header, Arrow reads an empty group, and no run could complete the shard."""
    path = thirty(tmp_path / "0.parquet", "none")
    overwrite(path, "id", 1, lambda _: b"\x02")  # the page's type
    raw = read_one(path)
    assert raw.numbers == list(range(30))
    assert raw.rejects == dict.fromkeys(range(10, 20), "shard_damaged")


@pytest.mark.parametrize("rows", [0, 5, 20, -10])
def test_a_footer_that_contradicts_itself_is_a_damaged_shard(tmp_path: Path, rows: int) -> None:
    """One flipped byte hides rows, or claims billions that would each become a reject."""
    path = thirty(tmp_path / "0.parquet")
    promise = bytearray(path.read_bytes())
    (at,) = [match.start() for match in re.finditer(b"\x16\x14\x26", promise)][1:2]  # the second group's rows
    promise[at + 1] = rows * 2 if rows >= 0 else -rows * 2 - 1  # Thrift's zigzag
    (tmp_path / "1.parquet").write_bytes(promise)
    raw = read_all(tmp_path)["1.parquet"]
    assert (raw.rows, raw.total) == ([], 0)
    assert f"it has 30 rows, its row groups {20 + rows}" in raw.damage


def test_a_row_group_of_more_rows_than_the_footer_says_never_gives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow counts the values that it finds: an extra row would get the number of the next group's first row."""
    path = thirty(tmp_path / "0.parquet")
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, *_, columns, **__: iter(self.read(columns).combine_chunks().to_batches(11)),
    )
    raw = read_one(path)
    assert raw.numbers == list(range(30))
    assert raw.rejects == dict.fromkeys(range(30), "shard_damaged")


@pytest.mark.parametrize("done", [((0, 5),), ((0, 10), (13, 17)), ((0, 30),), ((29, 30),), ((3, 4), (10, 30))])
def test_rows_that_are_done_are_left_out_and_the_others_keep_their_number(
    tmp_path: Path, done: tuple[tuple[int, int], ...]
) -> None:
    raw = read_one(thirty(tmp_path / "0.parquet"), done=done)
    missing = [row for row in range(30) if not any(start <= row < stop for start, stop in done)]
    assert raw.numbers == missing
    assert raw.column("key") == [100 + row for row in missing]
    assert raw.total == 30


def test_blocks_have_a_bounded_number_of_rows_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group can be 1 GB, more than a worker's share of memory."""
    path = write_parquet(tmp_path / "0.parquet", {"image": [os.urandom(1000) for _ in range(500)]})
    assert max(table.num_rows for table in read_one(path).tables) == BLOCK_ROWS
    monkeypatch.setattr(parquet, "BLOCK_BYTES", 20_000)
    assert max(table.num_rows for table in read_one(path).tables) in range(15, 21)


def test_a_file_without_rows_is_a_shard_without_rows(tmp_path: Path) -> None:
    raw = read_one(write_parquet(tmp_path / "0.parquet", {"image": pa.array([], pa.binary())}))
    assert (raw.rows, raw.total, raw.damage) == ([], 0, "")


@pytest.mark.parametrize("keys", [{"image_column": "a.jpg"}, {"keep": ["b.width"]}, {"text_column": "c.text"}])
def test_column_names_may_have_dots(tmp_path: Path, keys: dict[str, Any]) -> None:
    columns = {"image": [b"a"], "a.jpg": [b"b"], "b.width": [5], "c.text": ["d"]}
    (row,) = read_one(write_parquet(tmp_path / "0.parquet", columns), **keys).rows
    assert row["_image"] == (b"b" if "image_column" in keys else b"a")
    assert row.get("b.width", 5) == 5
    assert row["_text"] == ("d" if "text_column" in keys else None)


def test_a_struct_and_a_column_with_a_dot_are_told_apart(tmp_path: Path) -> None:
    columns = {"a": pa.array([{"bytes": b"in"}], pa.struct([("bytes", pa.binary())])), "a.bytes": [b"out"]}
    path = write_parquet(tmp_path / "0.parquet", columns)
    assert read_one(path, image_column="a").column("_image") == [b"in"]
    assert read_one(path, image_column="a.bytes").column("_image") == [b"out"]


BAD = pa.Array.from_buffers(pa.string(), 2, pa.array([b"fine", b"\xff\xfe"], pa.binary()).buffers())


def test_text_that_is_not_utf8_is_bad_metadata(tmp_path: Path) -> None:
    """Arrow does not look into strings when it reads them: one bad caption would end the job."""
    raw = read_one(write_parquet(tmp_path / "0.parquet", {"image": [b"a", b"b"], "text": BAD}))
    assert raw.rejects == {1: "bad_metadata"}
    assert raw.rows[1]["_message"] == "text is not a valid string; text must be UTF-8"


@pytest.mark.parametrize(
    "column",
    [
        BAD,
        BAD.cast(pa.large_string()),
        pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), BAD),
        pa.StructArray.from_arrays([BAD], ["a"]),
        pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), BAD),
    ],
    ids=lambda column: str(column.type),
)
def test_a_kept_column_that_is_not_utf8_is_bad_metadata_in_its_bad_rows(tmp_path: Path, column: pa.Array) -> None:
    raw = read_one(write_parquet(tmp_path / "0.parquet", {"image": [b"a", b"b"], "x": column}), keep=["x"])
    assert raw.rejects == {1: "bad_metadata"}
    assert raw.table.schema.field("x").type == column.type
    assert raw.column("x") == [column[0].as_py(), None]


def test_a_key_or_an_error_that_is_not_utf8_does_not_end_the_job(tmp_path: Path) -> None:
    columns = {"image": [b"a", None], "id": BAD, "error_message": BAD}
    raw = read_one(write_parquet(tmp_path / "0.parquet", columns))
    assert (raw.column("key"), raw.rejects) == (["fine", None], {1: "bad_metadata"})
    del columns["id"]
    raw = read_one(write_parquet(tmp_path / "0.parquet", columns))
    assert (raw.rejects, raw.rows[1]["_message"]) == ({1: "no_image"}, "the image bytes are null")
