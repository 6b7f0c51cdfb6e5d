"""Intact shards in unusual encodings: every row is read, none is lost."""

import gzip
import os
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.row_ranges import Coverage
from jobs.sources import ReadUnit
from jobs.sources.discover import read
from jobs.sources.webdataset import PEEK
from jobs.storage import Storage
from tests.support.shards import (
    Raw,
    about,
    accounted,
    listed,
    of_jsons,
    read_one,
    refusal,
    tar_bytes,
    write_parquet,
    write_tar,
)


def test_columns_that_arrow_stores_as_views_or_dictionaries_are_what_they_hold(tmp_path: Path) -> None:
    """DataFusion writes views, pandas categories. Their texts were null for the whole run, without a word."""
    texts, images = ["ä", None, "ä"], [b"\xff", b"b", None]
    for views in (True, False):
        text, image = pa.array(texts), pa.array(images)
        if views:
            text, image = text.cast(pa.string_view()), image.cast(pa.binary_view())
        else:
            text, image = text.dictionary_encode(), image.dictionary_encode()
        columns = {"id": text, "text": text, "url": text, "image": image}
        path = write_parquet(tmp_path / "0.parquet", {**columns, "at": pa.StructArray.from_arrays([text], ["x"])})
        raw = read_one(path, keep=["url", "at"])
        assert raw.table.schema.field("key").type == pa.string()
        assert [raw.column(name) for name in ("_text", "key", "url")] == [texts] * 3
        assert (raw.column("_image"), raw.rejects) == (images, {2: "no_image"})
        assert raw.column("at") == [{"x": text} for text in texts]
        assert raw.table.filter(pa.array([True, False, True, False])).num_rows == 2  # which views refuse
        assert read_one(path, where="text == 'ä' and 'ä' in url").numbers == [0, 2]


def test_a_tar_in_several_pieces_has_the_members_of_all(tmp_path: Path) -> None:
    """`cat` leaves an end in the middle, behind which rows vanished; bgzip packs pieces, and all but one were lost."""
    one, two = (tar_bytes([(f"{n}.jpg", bytes([65 + n]) * 1000), (f"{n}.txt", b"a")]) for n in range(2))
    packed = [gzip.compress((one + two)[at : at + 700]) for at in range(0, len(one + two), 700)]
    wholes = {"0.tar": one + two, "1.tar": one + bytes(1024) + two + b"junk" * 200, "0.tar.gz": b"".join(packed)}
    for name, data in wholes.items():
        (tmp_path / name).write_bytes(data)
        raw = read_one(tmp_path / name)
        assert (raw.column("key"), raw.total, raw.damage, raw.rejects) == (["0", "1"], 2, "", {}), name
    (tmp_path / "1.tar").write_bytes(one + two[:2000])
    assert read_one(tmp_path / "1.tar").damage == "the tar has no end mark"
    packed[-1] = packed[-1][:-8] + b"\xff" * 8
    (tmp_path / "0.tar.gz").write_bytes(b"".join(packed))
    assert read_one(tmp_path / "0.tar.gz").damage


@pytest.mark.parametrize("how", ["cut", "shorter", "longer before"])
@pytest.mark.parametrize("form", ["parquet", "tar"])
def test_a_shard_that_was_cut_when_half_of_it_was_done_can_be_completed(tmp_path: Path, form: str, how: str) -> None:
    """Every run reported `15 of 0 rows committed`, and no later run could complete the shard."""
    count = 6 if how == "shorter" else 12
    if form == "parquet":
        path = write_parquet(tmp_path / "0.parquet", {"image": [b"x"] * count})
        write_parquet(tmp_path / "1.parquet", {"image": [b"x"]})
    else:
        path = write_tar(tmp_path / "0.tar", [(f"{n}.jpg", b"x" * 1000) for n in range(count)])
    if how != "shorter":
        path.write_bytes(path.read_bytes()[: 6 * 1536 if form == "tar" else -20])
    done, known = (((0, 3), (8, 9)), 0) if how != "longer before" else (((0, 3),), 9)
    source = listed(tmp_path)
    raw = Raw(list(read(Storage(), source.layout, ReadUnit(source.shards[0], None, done, known_total=known))))
    whole = Coverage(done, known or None) | accounted(raw.tables)
    assert (whole.complete, whole.total) == (True, 9)
    assert any(end["_message"] for end in raw.ends)
    lost = set(range(9)) - set(raw.numbers) - {n for first, stop in done for n in range(first, stop)}
    assert lost == set()
    assert set(raw.rejects.values()) == {"shard_damaged"}
    assert set(raw.rejects) >= {6, 7}


def test_a_json_field_that_is_null_at_first_costs_no_row_later(tmp_path: Path) -> None:
    jsons = [about(note=None)] * PEEK + [about(note=value) for value in (0.5, "a", True, [1], None)]
    raw = of_jsons(tmp_path, *jsons, keep=["note"])
    assert (raw.rejects, raw.column("note")[PEEK:]) == ({}, ["0.5", "a", "true", "[1]", None])


def test_a_fraction_in_a_field_of_whole_numbers_is_a_reject_and_not_cut(tmp_path: Path) -> None:
    """The fraction was silently read as 0: the first 64 samples had whole numbers."""
    jsons = [about(score=1)] * PEEK + [about(score=0.9), about(score=2.0), about(score=float("nan"))]
    raw = of_jsons(tmp_path, *jsons, keep=["score"])
    assert (raw.rejects, raw.column("score")[-3:]) == ({64: "bad_metadata", 66: "bad_metadata"}, [None, 2, None])
    assert of_jsons(tmp_path, *jsons, where="score < 0.5").numbers == [64, 66]


def test_a_row_is_not_addressed_by_the_fields_it_is_chosen_by(tmp_path: Path) -> None:
    """`where: row > 0` gave rows the numbers in their json, and img2dataset's json has a key."""
    jsons = [about(row=7, shard="x", key=n) for n in range(3)]
    raw = of_jsons(tmp_path, *jsons, where="row > 0 and shard == 'x' and key > 0")
    assert (raw.numbers, raw.column("shard"), raw.column("key")) == ([1, 2], ["0.tar"] * 2, ["1", "2"])


def test_a_row_that_is_chosen_by_text_that_is_not_utf8_is_a_reject(tmp_path: Path) -> None:
    """Such a row was selected and got results like any other."""
    lang = pa.array([b"en", b"\xff\xfe", b"de"], pa.binary()).view(pa.string())
    raw = read_one(write_parquet(tmp_path / "0.parquet", {"image": [b"x"] * 3, "lang": lang}), where="lang == 'en'")
    assert (raw.numbers, raw.rejects) == ([0, 1], {1: "bad_metadata"})


def test_a_name_that_is_not_utf8_is_refused_before_the_run(tmp_path: Path) -> None:
    """The run failed later, with a UnicodeEncodeError while it partitioned the shards."""
    path = write_parquet(tmp_path / "0.parquet", {"image": [b"x"]})
    path.rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.parquet"))
    assert r"\xff.parquet': the file name is not UTF-8" in refusal(tmp_path)
