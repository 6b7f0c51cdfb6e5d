"""A folder that `datasets` opens by its name alone, with class names, vectors of known length, and a card."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from datasets import ClassLabel, Features, List, Value, load_dataset
from datasets.exceptions import NonMatchingSplitsSizesError

from jobs.errors import OutputError
from jobs.exports import export
from jobs.exports.hf import json_feature, yaml_feature
from tests.support.exported import DIM, KEPT, NAMES, Row, row, write_output


def exported(folder: Path, **about: Any) -> str:
    export("hf", write_output(folder / "out", **about), str(folder / "to"), 15)
    return str(folder / "to")


def opened(folder: Path, **about: Any) -> Any:
    return load_dataset(exported(folder, **about), split="train", cache_dir=str(folder / "cache"))


def test_load_dataset_opens_the_folder_with_class_names_and_vectors(tmp_path: Path) -> None:
    rows = opened(tmp_path)
    assert rows.num_rows == 50
    assert rows.features["labels"] == List(ClassLabel(names=list(NAMES)))
    assert rows.features["image_embedding"] == List(Value("float16"), length=DIM)
    assert rows.features["key"] == Value("int64")
    for index in (0, 17, 49):
        given = row(index)
        assert rows[index] == {name: given[name] for name in rows.column_names}
    assert rows.features["labels"].feature.int2str(rows[3]["labels"]) == ["fish", "ant"]
    vectors = np.asarray(rows.with_format("numpy")["image_embedding"][:])
    assert vectors.shape == (50, DIM)


def test_the_folder_streams_too(tmp_path: Path) -> None:
    stream = load_dataset(exported(tmp_path), split="train", streaming=True)
    assert [one["row"] for one in stream] == list(range(50))
    assert stream.features["labels"] == List(ClassLabel(names=list(NAMES)))


def test_one_file_of_it_has_the_features_by_itself(tmp_path: Path) -> None:
    to = exported(tmp_path)
    alone = load_dataset(
        "parquet", data_files=f"{to}/data/train-00001-of-00004.parquet", split="train", cache_dir=str(tmp_path / "one")
    )
    assert alone.features["labels"] == List(ClassLabel(names=list(NAMES)))
    assert alone[0]["row"] == 15


def test_the_card_says_how_many_which_models_and_what_was_rejected(tmp_path: Path) -> None:
    text = (Path(exported(tmp_path)) / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    info = yaml.safe_load(header)["dataset_info"]
    stored = sum(path.stat().st_size for path in (tmp_path / "to" / "data").iterdir())
    assert info["splits"][0]["num_examples"] == 50
    assert info["download_size"] == stored
    assert "50 rows, one for each of 51 input rows" in body
    assert "| vit | demo | sha256:0 | classes 5 |" in body
    assert "| empty | 1 |" in body
    assert all(f"| {name} | `" in body for name in ("key", "url", "labels", "text_embedding"))


def test_a_card_that_promises_more_rows_than_there_are_is_caught_by_datasets(tmp_path: Path) -> None:
    """The header's counts are ones that `datasets` checks, so a lost file does not pass for a small data set."""
    to = Path(exported(tmp_path))
    (to / "data" / "train-00002-of-00004.parquet").unlink()
    with pytest.raises(NonMatchingSplitsSizesError, match=r"num_examples=50.*num_examples=35"):
        load_dataset(str(to), split="train", cache_dir=str(tmp_path / "cache"))


def test_columns_of_any_kind_that_datasets_knows_keep_their_values(tmp_path: Path) -> None:
    extra = {
        "when": pa.timestamp("us", "UTC"),
        "tags": pa.list_(pa.struct([("name", pa.string()), ("score", pa.float64())])),
        "faces": pa.dictionary(pa.int8(), pa.string()),
    }
    values = {"when": 1_600_000_000_000_000, "tags": [{"name": "a", "score": 0.5}], "faces": "none"}

    def change(given: Row) -> Row:
        return {**given, **values}

    rows = opened(tmp_path, kept={**KEPT, **extra}, change=change)
    assert rows[0]["tags"] == [{"name": "a", "score": 0.5}]
    assert rows[0]["faces"] == "none"
    assert rows[0]["when"].timestamp() == 1_600_000_000


@pytest.mark.parametrize(
    "kind",
    [
        pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string(), pa.large_string(),
        pa.binary(), pa.date32(), pa.timestamp("ns"), pa.time64("us"), pa.decimal128(9, 2), pa.list_(pa.int64()),
        pa.large_list(pa.string()), pa.list_(pa.float16(), 3), pa.list_(pa.list_(pa.int8())),
        pa.struct([("x", pa.int32()), ("y", pa.list_(pa.struct([("z", pa.string())])))]),
    ],
    ids=str,
)  # fmt: skip
def test_card_and_parquet_name_one_feature_which_is_arrows_type(kind: pa.DataType) -> None:
    in_parquet = Features.from_dict({"column": json_feature(kind, [])})
    header = yaml.safe_load(yaml.safe_dump([{"name": "column", **yaml_feature(kind, [])}], sort_keys=False))
    assert Features._from_yaml_list(header) == in_parquet
    assert in_parquet.arrow_schema.field("column").type == kind


@pytest.mark.parametrize(
    "kind", [pa.map_(pa.string(), pa.float32()), pa.list_(pa.dictionary(pa.int32(), pa.string()))], ids=str
)
def test_a_column_that_datasets_has_no_feature_for_is_an_error_that_names_source_keep(
    tmp_path: Path, kind: pa.DataType
) -> None:
    theirs = {**KEPT, "scores": kind}
    with pytest.raises(OutputError, match=r"has no feature for it\n  hint: remove it from source.keep"):
        exported(tmp_path, kept=theirs, change=lambda given: {**given, "scores": None})
