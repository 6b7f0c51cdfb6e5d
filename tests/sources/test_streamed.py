"""Data sets that the `datasets` library can stream, in every form it writes."""

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Pillow

from jobs.config import JobConfig, SourceConfig
from jobs.errors import OutputError, SourceError
from jobs.run import run
from jobs.sources import ReadUnit
from jobs.sources.discover import discover, read
from jobs.sources.streamed import discover as discover_dataset
from jobs.storage import Storage
from tests.support.rows import batch, good, writer
from tests.support.shards import Raw, accounted, write_parquet


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("L", (8, 8), shade).save(buffer, "PNG")
    return buffer.getvalue()


def made(rows: int = 10) -> Dataset:
    features = Features(
        {"image": Image(), "id": Value("int64"), "text": Value("string"), "kind": ClassLabel(names=["cat", "dog"])}
    )
    columns = {
        "image": [{"bytes": png(n), "path": None} for n in range(rows)],
        "id": list(range(100, 100 + rows)),
        "text": [f"picture {n}" for n in range(rows)],
        "kind": [n % 2 for n in range(rows)],
    }
    return Dataset.from_dict(columns, features=features)


def saved(folder: Path) -> dict[str, object]:
    made().save_to_disk(folder / "d", num_shards=3)
    return {"name": str(folder / "d")}


def splits(folder: Path) -> dict[str, object]:
    DatasetDict({"train": made(3), "validation": made()}).save_to_disk(folder / "d")
    return {"name": str(folder / "d"), "split": "validation"}


def parquet(folder: Path) -> dict[str, object]:
    made().to_parquet(folder / "d" / "data" / "train-00000.parquet")
    return {"name": str(folder / "d")}


def files(folder: Path) -> dict[str, object]:
    """Path and bytes: images that are only named."""
    (folder / "d").mkdir()
    lines = ["file_name,id,text,kind"]
    for n in range(10):
        (folder / "d" / f"{n}.png").write_bytes(png(n))
        lines.append(f"{n}.png,{100 + n},picture {n},{n % 2}")
    (folder / "d" / "metadata.csv").write_text("\n".join(lines))
    return {"name": str(folder / "d")}


FORMS = [saved, splits, parquet, files]


def source_config(dataset: dict[str, object], **keys: object) -> SourceConfig:
    return JobConfig.from_dict({"source": {"dataset": dataset, "keep": [], **keys}, "output": {"path": "out"}}).source


def to_raw(config: SourceConfig, done: tuple[tuple[int, int], ...] = ()) -> dict[str, Raw]:
    source = discover(Storage(), config)
    return {s.name: Raw(list(read(Storage(), source.layout, ReadUnit(s, None, done)))) for s in source.shards}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(tmp_path: Path, form: Callable[[Path], dict[str, object]]) -> None:
    found = to_raw(source_config(form(tmp_path), keep=["kind"]))
    rows = [row for raw in found.values() for row in raw.rows]
    assert [row["key"] for row in rows] == list(range(100, 110))
    assert [row["_image"] for row in rows] == [png(n) for n in range(10)]
    assert [row["_text"] for row in rows] == [f"picture {n}" for n in range(10)]
    assert [row["kind"] for row in rows] == [n % 2 for n in range(10)]
    assert len(found) == (3 if form is saved else 1)
    assert all(accounted(raw.tables).complete for raw in found.values())


def test_what_is_done_is_not_given_again(tmp_path: Path) -> None:
    (raw,) = to_raw(source_config(parquet(tmp_path)), done=((0, 4), (9, 10))).values()
    assert raw.numbers == [4, 5, 6, 7, 8]


def test_rows_are_chosen_as_in_other_sources(tmp_path: Path) -> None:
    found = to_raw(source_config(saved(tmp_path), where="kind == 1 and id > 102", limit=3))
    assert [row["key"] for raw in found.values() for row in raw.rows] == [103, 105, 107]
    assert all(accounted(raw.tables).complete for raw in found.values())


def test_a_named_image_that_is_gone_is_a_reject(tmp_path: Path) -> None:
    config = source_config(files(tmp_path))
    source = discover(Storage(), config)
    (tmp_path / "d" / "5.png").unlink()
    raw = Raw([table for s in source.shards for table in read(Storage(), source.layout, ReadUnit(s))])
    assert raw.rejects == {5: "no_image"}
    assert len(raw.numbers) == 10


@pytest.mark.parametrize("place", ["{}/secret.png", "http://127.0.0.1:9/x", "/", "", "no://x", "{}/d/../secret.png"])
def test_a_row_cannot_name_a_file_or_a_host_outside_its_data_set(tmp_path: Path, place: str) -> None:
    """The path is untrusted input, on a machine that can reach what its author cannot."""
    (tmp_path / "secret.png").write_bytes(png(1))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": None, "path": place.format(tmp_path)}], kind)
    (tmp_path / "d").mkdir()
    write_parquet(tmp_path / "d" / "train.parquet", {"image": image, "id": [1]})
    (raw,) = to_raw(source_config({"name": str(tmp_path / "d")})).values()
    assert raw.rejects == {0: "no_image"}


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ({"name": "{}/d", "split": "test"}, "split test"),
        ({"name": "{}/nothing"}, "source.dataset"),
        ({"name": "{}"}, "split train"),
    ],
)
def test_what_cannot_be_opened_is_one_clear_error(tmp_path: Path, dataset: dict[str, str], said: str) -> None:
    parquet(tmp_path)
    (tmp_path / "d" / "data" / "train-00000.parquet").write_bytes(b"PAR1") if dataset["name"] == "{}" else None
    with pytest.raises(SourceError, match=said):
        discover_dataset(source_config({**dataset, "name": dataset["name"].format(tmp_path)}))


def test_a_data_set_without_images_says_which_columns_it_has(tmp_path: Path) -> None:
    Dataset.from_dict({"a": [1]}).save_to_disk(tmp_path / "d")
    with pytest.raises(SourceError, match="no column of image bytes"):
        discover_dataset(source_config({"name": str(tmp_path / "d")}))


def test_a_source_is_a_path_or_a_data_set() -> None:
    for source in ({}, {"path": "a", "dataset": {"name": "b"}}):
        with pytest.raises(Exception, match="needs either a path or a dataset"):
            JobConfig.from_dict({"source": source, "output": {"path": "out"}})


def test_a_data_set_that_was_cut_into_other_pieces_since_is_refused(tmp_path: Path) -> None:
    """With new shard names, every row was computed again and was in the output twice."""
    for number in range(2):
        made().to_parquet(tmp_path / "d" / "data" / f"train-{number:05}.parquet")
    writer(tmp_path / "out").write(batch(good("train-00000-of-00001", 0)), "p.parquet")
    tree = {"dataset": {"name": str(tmp_path / "d")}, "keep": []}
    with pytest.raises(OutputError, match=r"train-00000-of-00001, but .* has other shards now"):
        run(JobConfig.from_dict({"source": tree, "output": {"path": str(tmp_path / "out")}}))
