"""clip-retrieval's folders, read back by the reader that autofaiss and clip-retrieval use."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedding_reader import EmbeddingReader

from jobs.errors import OutputError
from jobs.exports import ExportSummary, export
from jobs.exports.clip_retrieval import NO_TEXT
from jobs.log import to_stderr
from tests.support.exported import DIM, KEPT, RESULTS, Row, read, row, vector, write_output

WITHOUT_TEXT = {name: kind for name, kind in KEPT.items() if name != "text"}


def exported(folder: Path, rows: int = 50, size: int = 15, **about: Any) -> ExportSummary:
    return export("clip-retrieval", write_output(folder / "out", rows, **about), str(folder / "to"), size)


def read_back(folder: Path, kind: str, columns: list[str]) -> tuple[np.ndarray[Any, Any], list[Mapping[Any, Any]]]:
    """All embeddings and what the metadata says of each, as the reader pairs them."""
    reader = EmbeddingReader(
        str(folder / "to" / kind), "parquet_npy", metadata_folder=str(folder / "to" / "metadata"), meta_columns=columns
    )
    assert reader.dimension == DIM
    assert reader.byte_per_item == 2 * DIM
    batches = list(reader(batch_size=7, show_progress=False))
    metadata = [one for _, frame in batches for one in frame.to_dict("records")]
    assert reader.count == len(metadata)
    return np.concatenate([vectors for vectors, _ in batches]), metadata


@pytest.mark.parametrize(("kind", "column"), [("img_emb", "image_embedding"), ("text_emb", "text_embedding")])
def test_embedding_reader_pairs_each_vector_with_its_own_row(tmp_path: Path, kind: str, column: str) -> None:
    """In 12 parts: the reader sorts files by name, and part 10 comes after 2 only when numbers are padded."""
    exported(tmp_path, 180)
    wanted = [row(index) for index in range(180) if row(index)["text"]]
    vectors, metadata = read_back(tmp_path, kind, ["image_path", "caption", "url", "row"])
    assert np.array_equal(vectors, np.array([one[column] for one in wanted], np.float32))
    assert [one["caption"] for one in metadata] == [one["text"] for one in wanted]
    assert [one["image_path"] for one in metadata] == [str(one["key"]) for one in wanted]
    assert [one["url"] for one in metadata] == [one["url"] for one in wanted]
    assert [one["row"] for one in metadata] == [one["row"] for one in wanted]


def test_rows_without_a_text_embedding_are_left_out_and_counted(tmp_path: Path) -> None:
    """A zero vector would be found as the neighbour of everything that is far from everything."""
    result = exported(tmp_path)
    assert (result.rows, result.left_out) == (45, {NO_TEXT: 5})
    assert str(result).endswith(f"\n  left out         5  {NO_TEXT}")
    arrays = [np.load(path) for path in sorted((tmp_path / "to").rglob("*.npy"))]
    assert sum(len(array) for array in arrays) == 90
    assert all(
        array.dtype == np.float16 and (np.abs(np.linalg.norm(array, axis=1) - 1) < 2e-3).all() for array in arrays
    )


def test_a_part_of_nothing_but_null_texts_has_no_files(tmp_path: Path) -> None:
    """The reader skips empty arrays but not their metadata: every later row would get its neighbour's."""

    def change(given: Row) -> Row:
        return {**given, "text": None, "text_embedding": None} if 15 <= given["row"] < 30 else given

    result = exported(tmp_path, 50, change=change)
    assert (result.rows, result.files) == (32, 9)
    assert not (tmp_path / "to" / "metadata" / "metadata_1.parquet").exists()
    vectors, metadata = read_back(tmp_path, "img_emb", ["row"])
    assert [one["row"] for one in metadata] == [i for i in range(50) if row(i)["text"] and not 15 <= i < 30]
    assert np.array_equal(vectors[-1], np.array(row(49)["image_embedding"], np.float32))
    again = export("clip-retrieval", str(tmp_path / "out"), str(tmp_path / "to"), 15)
    assert not again.created


def test_an_output_without_any_text_embedding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no row can be exported"):
        exported(tmp_path, change=lambda given: {**given, "text_embedding": None})


def test_a_job_without_texts_gives_images_only_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with to_stderr("text"):
        result = exported(tmp_path, results=RESULTS[:3], kept=WITHOUT_TEXT)
    assert (result.rows, result.left_out) == (50, {})
    assert {path.name for path in (tmp_path / "to").iterdir()} == {"img_emb", "metadata", "_export.json"}
    said = capsys.readouterr().err
    assert "no text_emb/: the job does not have models.align.text" in said
    assert "no captions in the metadata: the job did not keep its texts (source.keep)" in said
    assert "caption" not in read(tmp_path / "to").column_names


def test_a_job_without_align_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"no column image_embedding\n  hint: it is computed by models.align"):
        exported(tmp_path, results=RESULTS[:2])


def test_float32_embeddings_become_float16(tmp_path: Path) -> None:
    wide = [pa.field(f.name, pa.list_(pa.float32(), DIM)) if "embedding" in f.name else f for f in RESULTS]
    exported(tmp_path, results=wide)
    (first,) = sorted((tmp_path / "to" / "img_emb").iterdir())[:1]
    assert np.load(first).dtype == np.float16


def test_rows_without_a_key_are_named_by_their_address(tmp_path: Path) -> None:
    exported(tmp_path, key=pa.string(), change=lambda given: {**given, "key": None})
    assert read(tmp_path / "to").column("image_path")[0].as_py() == "part-00000.parquet/0"


def test_what_the_source_calls_caption_or_image_path_stays(tmp_path: Path) -> None:
    theirs = {**KEPT, "caption": pa.string(), "image_path": pa.string()}
    exported(tmp_path, kept=theirs, change=lambda given: {**given, "caption": "theirs", "image_path": "a/b.jpg"})
    table = pq.read_table(tmp_path / "to" / "metadata" / "metadata_0.parquet")
    assert set(table.column("caption").to_pylist()) == {"theirs"}
    assert set(table.column("image_path").to_pylist()) == {"a/b.jpg"}
    assert table.column_names.count("caption") == 1


def test_other_vectors_are_not_metadata(tmp_path: Path) -> None:
    """Half a kilobyte for each of 700 million rows, in a table that clip-retrieval holds in memory."""
    more = (*RESULTS, pa.field("image_pooled", pa.list_(pa.float16(), DIM)))
    exported(tmp_path, results=more, change=lambda given: {**given, "image_pooled": vector(np.random.default_rng(1))})
    names = read(tmp_path / "to").column_names
    assert not {"image_pooled", "image_embedding", "text_embedding"} & set(names)
    assert {"shard", "row", "key", "labels", "similarity"} <= set(names)


def test_rows_whose_keys_are_bytes_are_named_by_their_address(tmp_path: Path) -> None:
    """A hash that is no UTF-8 ended the export."""
    output = write_output(tmp_path / "out", 3, key=pa.binary(), change=lambda one: {**one, "key": b"\xff"})
    export("clip-retrieval", output, str(tmp_path / "to"), 20)
    metadata = read(tmp_path / "to" / "metadata")
    assert metadata.column("image_path").to_pylist() == [f"part-00000.parquet/{n}" for n in range(3)]
    assert set(metadata.column("key").to_pylist()) == {b"\xff"}
