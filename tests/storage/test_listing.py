"""Listings of folders with unusual names, links and other writers."""

import threading
from pathlib import Path

import pytest

from jobs.config import SourceConfig
from jobs.demo import corpus
from jobs.errors import SourceError
from jobs.sources.discover import discover
from jobs.storage import Storage


def names(path: Path) -> list[str]:
    return [shard.name for shard in discover(Storage(), SourceConfig(path=str(path))).shards]


def test_shards_behind_a_linked_folder_are_found_once(tmp_path: Path) -> None:
    """Two of three shards were silently left out, and _SUCCESS was written."""
    corpus.write_parquet(tmp_path / "elsewhere", 2, 3)
    corpus.write_parquet(tmp_path / "in", 1, 3)
    (tmp_path / "in" / "sub").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "in")
    assert names(tmp_path / "in") == ["part-00000.parquet", "sub/part-00000.parquet", "sub/part-00001.parquet"]


@pytest.mark.parametrize("name", ["src[1]", "what?", "a*b", "{a,b}"])
def test_a_folder_whose_name_looks_like_a_pattern_is_a_folder(tmp_path: Path, name: str) -> None:
    corpus.write_parquet(tmp_path / name, 1, 3)
    assert names(tmp_path / name) == ["part-00000.parquet"]


@pytest.mark.parametrize("name", ["out[1]", "out?", "out{a,b}"])
def test_the_jobs_own_folder_is_no_pattern(tmp_path: Path, name: str) -> None:
    """Such an output never completed: each run wrote its objects again, because the listing missed them."""
    storage = Storage()
    storage.put(f"{tmp_path}/{name}/rows/part.parquet", b"x")
    assert [entry.path for entry in storage.list_files(f"{tmp_path}/{name}/rows")] == [
        f"{tmp_path}/{name}/rows/part.parquet"
    ]


def test_a_listing_is_whole_while_others_write(tmp_path: Path) -> None:
    """Parts of a job on one disk saw an empty output: a temporary file of another part vanished during the listing."""
    corpus.write_parquet(tmp_path, 100, 1)
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            Storage().put(f"{tmp_path}/new", b"x")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert {len(names(tmp_path)) for _ in range(50)} == {100}
    finally:
        over.set()
        writer.join()


@pytest.mark.parametrize("pattern", ["", "*.parquet", "part-{00000..00001}.parquet"])
def test_a_link_to_nothing_is_refused(tmp_path: Path, pattern: str) -> None:
    """git-annex and DVC leave such links where a file was not fetched."""
    corpus.write_parquet(tmp_path, 1, 3)
    (tmp_path / "part-00001.parquet").symlink_to("/nowhere/else")
    with pytest.raises(SourceError, match=r"00001\.parquet: a link to /nowhere/else, which does not exist"):
        discover(Storage(), SourceConfig(path=f"{tmp_path}/{pattern}".rstrip("/")))


def test_two_may_delete_the_same_at_once(tmp_path: Path) -> None:
    """Parts that started together tested the output with the same file, and all but one of them failed."""
    Storage().put(f"{tmp_path}/x", b"")
    Storage().delete(f"{tmp_path}/x")
    Storage().delete(f"{tmp_path}/x")
