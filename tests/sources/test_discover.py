"""One listing decides what the source is; what is ambiguous or missing is refused before anything runs."""

from pathlib import Path
from typing import Any

import pytest

from jobs.errors import ConfigError, SourceError
from tests.support.shards import listed, put_folder, read_all, read_one, refusal, tar_bytes, write_parquet, write_tar

TARS = ["a/0.tar", "a/1.tar", "a/b/2.tar", "c/0.TAR", "c/1.tar.gz", "c/2.tgz"]
NOT_SHARDS = ["_SUCCESS", "a/_tmp/9.tar", "a/.9.tar.part", ".hidden/9.tar", "a/0_stats.json", "readme.md", "a/0.json"]


@pytest.fixture(params=["local", "s3"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """TARS and NOT_SHARDS, on either kind of storage."""
    for name in [*TARS, *NOT_SHARDS]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(tar_bytes([("0.jpg", b"x")], "w:gz" if name.endswith("gz") else "w"))
    if request.param == "local":
        return str(tmp_path)
    bucket = str(request.getfixturevalue("bucket"))
    put_folder(tmp_path, bucket + "/in")
    return bucket + "/in"


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("", TARS),
        ("/", TARS),
        ("/a", ["0.tar", "1.tar", "b/2.tar"]),
        ("/a/1.tar", ["1.tar"]),
        ("/*/*.tar", ["a/0.tar", "a/1.tar"]),
        ("/**/*.tar", ["a/0.tar", "a/1.tar", "a/b/2.tar"]),
        ("/a/{0..1}.tar", ["0.tar", "1.tar"]),
        ("/{a/b,a}/*.tar", ["a/0.tar", "a/1.tar", "a/b/2.tar"]),
    ],
)
def test_shards_are_named_relative_to_the_path(tree: str, path: str, names: list[str]) -> None:
    """Names are addresses in the output: they must not change when the corpus moves."""
    assert [shard.name for shard in listed(tree + path).shards] == names


def test_a_list_of_paths_names_shards_in_full(tree: str) -> None:
    """Two folders of a list may both have a 0.tar."""
    shards = listed([f"{tree}/c", f"{tree}/a/*.tar", f"{tree}/a/0.tar"]).shards
    names = ["a/0.tar", "a/1.tar", "c/0.TAR", "c/1.tar.gz", "c/2.tgz"]
    assert [shard.name for shard in shards] == [f"{tree}/{name}" for name in names]


def test_every_shard_of_a_tree_can_be_read(tree: str) -> None:
    assert {name: raw.column("_image") for name, raw in read_all(tree).items()} == {name: [b"x"] for name in TARS}


def test_markers_temporary_folders_and_statistics_are_no_shards(tmp_path: Path) -> None:
    """A crashed Spark writer leaves _temporary/ with halves of files."""
    write_parquet(tmp_path / "0.parquet", {"image": [b"a"]})
    for name in ("_temporary/0/1.parquet", "_SUCCESS", ".0.parquet.crc", "0_stats.json", "_metadata.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"junk")
    assert [shard.name for shard in listed(tmp_path).shards] == ["0.parquet"]


def test_a_hidden_folder_above_the_path_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "_data").mkdir()
    write_parquet(tmp_path / "_data" / "0.parquet", {"image": [b"a"]})
    assert len(listed(tmp_path / "_data").shards) == 1


def test_the_sidecars_of_img2dataset_are_no_shards(tmp_path: Path) -> None:
    for name in ("00000", "00001"):
        write_tar(tmp_path / f"{name}.tar", [("0.jpg", b"x")])
        write_parquet(tmp_path / f"{name}.parquet", {"key": ["0"], "url": ["u"]})
    source = listed(tmp_path)
    assert [shard.name for shard in source.shards] == ["00000.tar", "00001.tar"]
    assert source.description.startswith("2 webdataset shards")
    assert source.description.endswith("2 sidecars skipped")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    write_tar(tmp_path / "0.tar", [("0.jpg", b"tar")])
    write_parquet(tmp_path / "1.parquet", {"image": [b"parquet"]})
    return tmp_path


def test_tars_and_parquet_files_together_are_refused(mixed: Path) -> None:
    """Choosing one silently would leave out the other half of a corpus."""
    said = refusal(mixed)
    assert "holds 1 tars and 1 Parquet files" in said
    assert "set source.format" in said


@pytest.mark.parametrize(("form", "image"), [("webdataset", b"tar"), ("parquet", b"parquet")])
def test_the_format_chooses_between_tars_and_parquet_files(mixed: Path, form: str, image: bytes) -> None:
    assert read_one(mixed, format=form).column("_image") == [image]


def test_a_format_that_is_not_there_says_what_is(mixed: Path) -> None:
    said = refusal(mixed / "*.tar", format="parquet")
    assert "no .parquet files" in said
    assert "found 1 .tar there" in said


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "no files at"),
        (["a.jpg", "b.jpg", "c.json"], "found 2 .jpg, 1 .json there"),
        (["_SUCCESS"], "found only markers there"),
    ],
)
def test_a_folder_without_shards_says_what_it_holds(tmp_path: Path, names: list[str], said: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert said in refusal(tmp_path)


def test_one_path_of_a_list_with_nothing_there_is_refused(mixed: Path) -> None:
    assert "no files at" in refusal([mixed / "0.tar", mixed / "9.tar"])


def test_a_missing_bucket_is_a_source_error(s3: str) -> None:
    assert "no bucket 'no-such-bucket'" in refusal("s3://no-such-bucket/in")


@pytest.mark.parametrize("name", ["0.tar", "0.parquet"])
def test_a_source_of_which_no_shard_can_be_read_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff" * 5000)
    assert "none of the 1 " in refusal(tmp_path)


@pytest.mark.parametrize("fixture", ["scenes_parquet", "scenes_tars"])
def test_the_demos_shards_are_read_alike_from_disk_and_s3(
    fixture: str, request: pytest.FixtureRequest, bucket: str
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    put_folder(folder, bucket + "/in")
    here, there = (read_all(where, keep=["url", "width", "height"]) for where in (folder, bucket + "/in"))
    assert list(here) == list(there)
    assert all(here[name].table.equals(there[name].table) for name in here)
    rows: list[dict[str, Any]] = [row for raw in here.values() for row in raw.rows if not row["_reason"]]
    assert 110 <= len(rows) <= 120
    assert all(row["_image"] and row["_text"] and row["url"] and row["width"] for row in rows)


@pytest.mark.parametrize("name", ["shard", "row", "key", "labels", "similarity", "_text", "_reason"])
def test_a_kept_column_with_a_name_of_the_output_is_refused(tmp_path: Path, name: str) -> None:
    """A source's own `row` would replace the row numbers that resuming relies on; `_text` would vanish."""
    path = write_parquet(tmp_path / "0.parquet", {"image": [b"a"], name: ["x"]})
    with pytest.raises((ConfigError, SourceError), match=name):
        listed(path, keep=[name])


@pytest.mark.parametrize(
    ("members", "keys", "said"),
    [
        ([("0.txt", b"a")], {}, "no member with image bytes among the first 1 samples"),
        ([("0.jpg", b"a")], {"image_column": "png"}, "their suffixes: jpg"),
        ([("0.jpg", b"a")], {"keep": ["url"]}, "the tar has no json"),
        ([("0.jpg", b"a"), ("0.json", b'{"URL": 1}')], {"keep": ["url"]}, "the json's fields: URL"),
        ([("0.jpg", b"a")], {"text_column": "alt"}, "no member or json field 'alt'"),
    ],
)
def test_a_layout_of_tars_that_cannot_work_is_refused_before_the_run(
    tmp_path: Path, members: list[tuple[str, bytes]], keys: dict[str, Any], said: str
) -> None:
    assert said in refusal(write_tar(tmp_path / "0.tar", members), **keys)
