"""The output opens unchanged in the tools people have; nobody should need ours to use it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.run import run
from tests.support.in_process import without_ray
from tests.support.recipes import demo_job

DIM = 128
COLUMNS = ["shard", "row", "key", "url", "width", "height", "labels", "label_probs"]
COLUMNS += ["image_embedding", "text_embedding", "similarity"]


@pytest.fixture(scope="module")
def output(scenes_parquet: Path) -> Path:
    out = scenes_parquet.with_name("out")
    with without_ray():
        run(demo_job(scenes_parquet, out))
    return out


@pytest.fixture(scope="module")
def truth(output: Path) -> pa.Table:
    """As Arrow reads it, in the order of the files."""
    return pq.read_table(output / "rows")


def vectors(truth: pa.Table, name: str) -> "np.ndarray[Any, Any]":
    return np.stack(truth.column(name).to_numpy())


def test_arrow_sees_fixed_size_vectors(truth: pa.Table) -> None:
    assert truth.column_names == COLUMNS
    assert truth.schema.field("image_embedding").type == pa.list_(pa.float16(), DIM)
    assert truth.num_rows == 116


def test_pandas_opens_the_folder(output: Path, truth: pa.Table) -> None:
    import pandas as pd  # type: ignore[import-untyped]

    frame = pd.read_parquet(output / "rows")
    assert list(frame.columns) == COLUMNS
    assert frame["row"].dtype == np.int32
    assert frame["key"].dtype == np.int64
    stacked = np.stack(list(frame["image_embedding"]))
    assert stacked.shape == (116, DIM)
    assert stacked.dtype == np.float16
    assert np.array_equal(stacked, vectors(truth, "image_embedding"))
    assert frame["labels"].iloc[0].tolist() == truth.column("labels")[0].as_py()
    assert not pd.read_parquet(output / "rejects").isna().any().any()


def test_polars_opens_the_folder(output: Path, truth: pa.Table) -> None:
    import polars as pl

    frame = pl.read_parquet(output / "rows" / "*.parquet")
    assert frame.columns == COLUMNS
    kind = frame.schema["text_embedding"]
    assert isinstance(kind, pl.Array)
    assert kind.shape == (DIM,)
    assert np.array_equal(frame["text_embedding"].to_numpy(), vectors(truth, "text_embedding"))
    assert frame["label_probs"].to_list() == truth.column("label_probs").to_pylist()
    assert pl.read_parquet(output / "rejects" / "*.parquet").height == 4


def test_duckdb_opens_the_folder(output: Path, truth: pa.Table) -> None:
    """DuckDB has no 16-bit floats and Parquet no fixed sizes: it reads lists, which one cast makes vectors."""
    import duckdb

    connection = duckdb.connect()
    rows = f"'{output}/rows/*.parquet'"
    found = connection.execute(
        f"select image_embedding::float[{DIM}] as image, similarity,"
        f" array_inner_product(image_embedding::float[{DIM}], text_embedding::float[{DIM}]) as cosine from {rows}"
    ).fetchnumpy()
    assert np.array_equal(np.stack(list(found["image"])), vectors(truth, "image_embedding").astype(np.float32))
    assert np.allclose(found["cosine"], found["similarity"], atol=2e-3)
    assert [column[0] for column in connection.execute(f"select * from {rows}").description or []] == COLUMNS
    counted = connection.execute(f"select reason, count(*) from '{output}/rejects/*.parquet' group by reason")
    assert dict(counted.fetchall()) == {"not_an_image": 2, "no_image": 1, "truncated": 1}


def test_datasets_loads_the_folder(output: Path, truth: pa.Table, tmp_path: Path) -> None:
    from datasets import load_dataset

    loaded = load_dataset(
        "parquet", data_files=f"{output}/rows/*.parquet", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.column_names == COLUMNS
    assert loaded.features["image_embedding"].length == DIM
    assert loaded.features["image_embedding"].feature.dtype == "float16"
    stacked = np.asarray(loaded.with_format("numpy")["image_embedding"][:])
    assert np.array_equal(stacked, vectors(truth, "image_embedding"))


def test_the_label_names_are_where_readers_look(output: Path) -> None:
    import json

    names = json.loads((output / "_labels.json").read_text())
    assert len(names) == 64
    metadata = pq.read_schema(next((output / "rows").iterdir())).metadata
    assert json.loads(metadata[b"coyo_jobs.label_names"]) == names
    about = json.loads(metadata[b"coyo_jobs.models"])
    assert about["align"]["normalised"] is True
    assert about["align"]["dim"] == DIM
