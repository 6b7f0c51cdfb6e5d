"""hf:// paths: a data set on the hub is read in place, at one commit."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfFileSystem

from jobs.errors import SourceError, StorageError
from jobs.sources import ReadUnit
from jobs.sources.discover import read
from jobs.storage import Storage
from jobs.storage import hub as hub_client
from tests.support.fake_hub import COMMIT, OLDER, FakeHub
from tests.support.shards import listed, read_all, refusal, write_parquet

PLACE = "hf://datasets/owner/name"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\n---\n")
    for n in range(2):
        columns = {"id": list(range(40)), "text": ["a"] * 40, "image": [bytes([n]) * 10_000] * 40}
        write_parquet(folder / "data" / f"part-{n:05}.parquet", columns, group=10, compression="none")
    with FakeHub(folder) as server:
        monkeypatch.setattr(hub_client, "filesystem", lambda: HfFileSystem(endpoint=server.endpoint))
        yield server


@pytest.mark.parametrize(
    "path", ["", "/data", "/data/*.parquet", "@main/data", f"@{COMMIT}", "/data/part-{00000..00001}.parquet"]
)
def test_shards_of_a_data_set_are_listed_and_read_in_place(hub: FakeHub, path: str) -> None:
    found = read_all(PLACE + path)
    assert {name.rpartition("/")[2]: raw.total for name, raw in found.items()} == {
        "part-00000.parquet": 40,
        "part-00001.parquet": 40,
    }
    assert {row["_image"] for raw in found.values() for row in raw.rows} == {b"\0" * 10_000, b"\1" * 10_000}


def test_the_revision_is_pinned_to_its_commit(hub: FakeHub) -> None:
    assert listed(f"{PLACE}/data").pinned_config.path == f"{PLACE}@{COMMIT}/data"
    hub.commit = OLDER
    assert listed(f"{PLACE}/data").pinned_config.path == f"{PLACE}@{OLDER}/data"
    assert "the hub" in refusal(f"{PLACE}@nowhere/data")


def test_only_the_bytes_that_are_needed_cross_the_network(hub: FakeHub) -> None:
    source = listed(f"{PLACE}/data", where="id >= 35")
    hub.sent = 0
    rows = sum(table.num_rows for one in source.shards for table in read(Storage(), source.layout, ReadUnit(one)))
    assert rows == 2 * (5 + 1)
    assert hub.sent < 2 * 400_000 * 0.6


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("hf://datasets/owner/other", "not on the hub"),
        ("hf://datasets/owner/name/nothing", "no files at"),
        ("hf://", "hf://"),
    ],
)
def test_what_is_not_there_is_one_clear_error(hub: FakeHub, path: str, said: str) -> None:
    assert said in refusal(path)


def test_a_hub_that_cannot_be_reached_says_so(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(hub_client, "filesystem", lambda: HfFileSystem(endpoint="http://127.0.0.1:9"))
    with pytest.raises(SourceError, match="the hub cannot be used"):
        listed(f"{PLACE}/data")


def test_nothing_is_written_to_the_hub(hub: FakeHub) -> None:
    with pytest.raises(StorageError, match="read only"):
        Storage().put(f"{PLACE}/x", b"x")
