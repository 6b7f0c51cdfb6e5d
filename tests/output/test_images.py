"""Images that are kept are the source's bytes, in shards that can be read as a source again."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import schema
from jobs.commands.verify import verify
from jobs.config import JobConfig
from jobs.output import images
from jobs.run import run
from tests.support.recipes import demo_job
from tests.support.shards import read_all


def rows(count: int = 3) -> pa.Table:
    table = pa.table({"shard": ["a/b.tar"] * count, "row": pa.array(range(count), pa.int32())})
    extra: dict[str, Any] = {
        "key": list(range(count)),
        "url": [f"u{n}" for n in range(count)],
        "_since": list(range(count)),
        "_end": [False] * count,
        "_text": ["ä", None, "c"][:count],
        "_image": [b"\xff\xd8\xff1", b"\x89PNG2", b"RIFF....WEBP"][:count],
        "labels": [[1]] * count,
    }
    for name, values in extra.items():
        table = table.append_column(name, pa.array(values))
    return table


def test_a_parquet_of_images_is_named_as_a_source_names_its_columns(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(images.pack(rows(), "parquet"))
    assert pq.read_schema(tmp_path / "p.parquet").names == ["shard", "row", "key", "url", "text", "image"]
    (raw,) = read_all(tmp_path).values()
    assert raw.column(schema.IMAGE) == [b"\xff\xd8\xff1", b"\x89PNG2", b"RIFF....WEBP"]
    assert raw.column(schema.TEXT) == ["ä", None, "c"]


def test_a_kept_column_called_text_stays_and_the_text_gets_another_name(tmp_path: Path) -> None:
    """Two columns of one name: no reader takes that."""
    table = rows()
    table = table.add_column(3, "text", pa.array(["kept"] * 3))
    (tmp_path / "p.parquet").write_bytes(images.pack(table, "parquet"))
    names = pq.read_schema(tmp_path / "p.parquet").names
    assert names == ["shard", "row", "key", "text", "url", "caption", "image"]


def test_samples_of_shards_with_like_names_stay_apart(tmp_path: Path) -> None:
    names = ["x.1.parquet", "x.2.parquet", "x_1.parquet"]
    table = rows().set_column(0, "shard", pa.array(names)).set_column(1, "row", pa.array([0, 0, 0], pa.int32()))
    (tmp_path / "p.tar").write_bytes(images.pack(table, "webdataset"))
    (raw,) = read_all(tmp_path).values()
    assert len({row["key"] for row in raw.rows}) == len(raw.rows) == 3
    assert not raw.rejects


def test_a_tar_of_images_is_a_webdataset(tmp_path: Path) -> None:
    (tmp_path / "p.tar").write_bytes(images.pack(rows(), "webdataset"))
    (raw,) = read_all(tmp_path, keep=["url"]).values()
    assert raw.column(schema.IMAGE) == [b"\xff\xd8\xff1", b"\x89PNG2", b"RIFF....WEBP"]
    assert raw.column(schema.TEXT) == ["ä", None, "c"]
    assert raw.column("url") == ["u0", "u1", "u2"]


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_a_run_keeps_the_images_of_its_good_rows(no_ray: None, scenes_parquet: Path, tmp_path: Path, form: str) -> None:
    tree = demo_job(scenes_parquet, tmp_path / "out", compute={"canvas": "exact"}).model_dump()
    tree["source"] = {"path": str(scenes_parquet), "keep": []}
    config = JobConfig.from_dict(tree | {"output": {"path": str(tmp_path / "out"), "keep_images": form}})
    (tmp_path / "out" / "images").mkdir(parents=True)
    orphan = tmp_path / "out" / "images" / images.object_name("part-dead-000000.parquet", form)
    orphan.write_bytes(b"half")  # of a run that died before it wrote the rows
    summary = run(config)
    assert not orphan.exists()
    given = {(name, row["row"]): row["_image"] for name, raw in read_all(scenes_parquet).items() for row in raw.rows}
    kept = [row for raw in read_all(tmp_path / "out" / "images").values() for row in raw.rows]
    stored = pa.concat_tables([pq.read_table(path) for path in (tmp_path / "out" / "rows").glob("*.parquet")])
    addresses = set(zip(stored.column("shard").to_pylist(), stored.column("row").to_pylist(), strict=True))
    assert len(kept) == summary.rows == len(addresses)
    assert sorted(row["_image"] for row in kept) == sorted(given[address] for address in addresses)
    assert all(check.ok for check in verify(str(tmp_path / "out"), deep=True))
    next((tmp_path / "out" / "images").iterdir()).unlink()
    assert [check.claim for check in verify(str(tmp_path / "out")) if not check.ok] == [
        "each object of rows has its images"
    ]
