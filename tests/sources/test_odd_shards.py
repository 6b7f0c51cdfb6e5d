"""Shards that are whole, but written by other hands than most: each has its rows, and none of them is lost."""

from pathlib import Path

import pyarrow as pa

from tests.sources import read_one, write_parquet


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
