"""What a listing finds, where names and folders are unusual."""

from pathlib import Path

import pytest

from jobs.config import SourceConfig
from jobs.demo import corpus
from jobs.sources.discover import discover
from jobs.storage import Storage


def names(path: Path) -> list[str]:
    return [shard.name for shard in discover(Storage(), SourceConfig(path=str(path))).shards]


def test_shards_behind_a_linked_folder_are_found_once(tmp_path: Path) -> None:
    """Two of three shards were left out without a word, and _SUCCESS was written."""
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
    """Such an output never completed, and grew with every run: its objects were written and never found."""
    storage = Storage()
    storage.put(f"{tmp_path}/{name}/rows/part.parquet", b"x")
    assert [entry.path for entry in storage.tree(f"{tmp_path}/{name}/rows")] == [f"{tmp_path}/{name}/rows/part.parquet"]
