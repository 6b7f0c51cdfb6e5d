"""COYO-Labeled-300M's columns, exactly, or a clear word about which of them the job did not keep."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.errors import OutputError
from jobs.exports import export
from tests.support.exported import KEPT, NAMES, RESULTS, Row, read, row, write_output

PUBLISHED = pa.schema(
    [
        ("id", pa.int64()),
        ("url", pa.string()),
        ("imagehash", pa.string()),
        ("labels", pa.list_(pa.int32())),
        ("label_probs", pa.list_(pa.float32())),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


def exported(folder: Path, **about: Any) -> pa.Table:
    export("coyo-labeled", write_output(folder / "out", **about), str(folder / "to"), 100)
    return read(folder / "to")


def refusal(folder: Path, **about: Any) -> str:
    with pytest.raises(OutputError) as caught:
        exported(folder, **about)
    assert not (folder / "to").exists()
    return str(caught.value)


def test_the_columns_their_order_and_their_types_are_the_published_ones(tmp_path: Path) -> None:
    table = exported(tmp_path)
    assert table.schema == PUBLISHED
    given = row(17)
    assert table.slice(17, 1).to_pylist() == [
        {
            "id": given["key"],
            "url": given["url"],
            "imagehash": given["image_phash"],
            **{name: given[name] for name in ("labels", "label_probs", "width", "height")},
        }
    ]
    assert json.loads((tmp_path / "to" / "_labels.json").read_text()) == list(NAMES)


def test_wider_types_and_other_names_of_a_source_become_the_published_ones(tmp_path: Path) -> None:
    """Tars have strings as keys and COYO's id in their json; pandas writes int64 and large strings."""
    kept = {"id": pa.int64(), "url": pa.large_string(), "width": pa.int64(), "height": pa.int16()}
    kept |= {"imagehash": pa.dictionary(pa.int32(), pa.string())}

    def change(given: Row) -> Row:
        return {**given, "key": f"{given['row']:09d}", "id": given["key"], "imagehash": given["image_phash"]}

    table = exported(tmp_path, kept=kept, key=pa.string(), change=change)
    assert table.schema == PUBLISHED
    assert table.column("id").to_pylist() == [row(index)["key"] for index in range(50)]


@pytest.mark.parametrize("missing", ["url", "image_phash", "width"])
def test_a_column_that_was_not_kept_is_an_error_that_names_source_keep(tmp_path: Path, missing: str) -> None:
    said = refusal(tmp_path, kept={name: kind for name, kind in KEPT.items() if name != missing})
    assert f"no column for {'imagehash' if missing == 'image_phash' else missing}\n" in said
    assert "this job keeps " in said


def test_keys_that_are_no_numbers_are_no_ids(tmp_path: Path) -> None:
    said = refusal(tmp_path, key=pa.string(), change=lambda given: {**given, "key": "000000001"})
    assert "no column for id\n  hint: the key here is string, not an integer: keep COYO's id with source.keep" in said


def test_a_job_without_labels_is_told_where_they_come_from(tmp_path: Path) -> None:
    assert "labels are computed by models.vit" in refusal(tmp_path, results=RESULTS[2:])


def test_a_value_that_does_not_fit_is_no_wrapped_number(tmp_path: Path) -> None:
    wide = {**KEPT, "width": pa.int64()}
    assert "does not fit" in refusal(tmp_path, kept=wide, change=lambda given: {**given, "width": 1 << 40})
