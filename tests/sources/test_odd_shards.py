"""Shards that are whole, but written by other hands than most: each has its rows, and none of them is lost."""

import gzip
from pathlib import Path

import pyarrow as pa

from tests.sources import read_one, tar_bytes, write_parquet


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
