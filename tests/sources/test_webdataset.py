"""Tars: samples are found in any order and spelling, and a damaged tar gives what it holds and says so."""

import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.sources import BLOCK_ROWS
from tests.support.shards import Raw, about, of_jsons, read_all, read_one, tar_bytes, write_parquet, write_tar

# Each member of the cut tars takes 1536 bytes: a header of 512, 1000 bytes of data and 24 of padding.
THREE = tar_bytes([(f"{n}.jpg", bytes([65 + n]) * 1000) for n in range(3)])


def read_beside_a_good_one(folder: Path, broken: bytes) -> Raw:
    (folder / "0.tar").write_bytes(THREE)
    (folder / "1.tar").write_bytes(broken)
    raws = read_all(folder)
    assert (raws["0.tar"].total, raws["0.tar"].damage, raws["0.tar"].rejects) == (3, "", {})
    return raws["1.tar"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_the_members_of_a_sample_come_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    members = [[(f"{k}.json", about(url=k)), (f"{k}.jpg", b"img" + k.encode()), (f"{k}.txt", b"a")] for k in "01"]
    raw = read_one(write_tar(tmp_path / "0.tar", [sample[i] for sample in members for i in order]), keep=["url"])
    assert raw.column("_image") == [b"img0", b"img1"]
    assert (raw.column("url"), raw.column("_text"), raw.column("key")) == (["0", "1"], ["a", "a"], ["0", "1"])


def test_rows_count_the_samples_that_are_there(tmp_path: Path) -> None:
    """img2dataset leaves gaps in its keys where downloads failed."""
    raw = read_one(write_tar(tmp_path / "0.tar", [(f"{key}.jpg", b"x") for key in ("007", "003", "042")]))
    assert (raw.column("key"), raw.numbers, raw.total) == (["007", "003", "042"], [0, 1, 2], 3)


@pytest.mark.parametrize("suffix", ["jpg", "JPG", "Jpeg", "png", "WEBP", "gif", "tiff", "avif", "heic", "image"])
def test_images_of_any_suffix_are_found(tmp_path: Path, suffix: str) -> None:
    assert read_one(write_tar(tmp_path / "0.tar", [(f"0.{suffix}", b"x")])).column("_image") == [b"x"]


def test_a_configured_suffix_is_the_only_image(tmp_path: Path) -> None:
    members = [("0.jpg", b"no"), ("0.seg.png", b"yes"), ("1.jpg", b"no")]
    raw = read_one(write_tar(tmp_path / "0.tar", members), image_column="seg.png")
    assert (raw.column("_image"), raw.rejects) == ([b"yes", None], {1: "no_image"})


def test_folders_and_files_that_are_no_members_of_a_sample_are_passed_over(tmp_path: Path) -> None:
    names = ["./", "./a.b/", "./a.b/0.jpg", "./a.b/0.txt", "./README", "./._1.jpg", "./c/", "./c/0.jpg"]
    raw = read_one(write_tar(tmp_path / "0.tar", [(name, b"x") for name in names]))
    assert raw.column("key") == ["./a.b/0", "./c/0"]
    assert raw.column("_text") == ["x", None]


def test_two_samples_with_one_key_in_a_row_are_two_rows(tmp_path: Path) -> None:
    raw = read_one(write_tar(tmp_path / "0.tar", [("0.jpg", b"a"), ("0.jpg", b"b"), ("0.txt", b"b")]))
    assert (raw.column("_image"), raw.column("_text")) == ([b"a", b"b"], [None, "b"])


def test_a_sample_without_an_image_is_a_reject(tmp_path: Path) -> None:
    raw = read_one(write_tar(tmp_path / "0.tar", [("0.jpg", b"x"), ("1.txt", b"only words"), ("2.jpg", b"")]))
    assert raw.rejects == {1: "no_image"}
    assert raw.rows[1]["_message"] == "no image member; the sample has txt"


def test_json_fields_have_the_types_of_their_values(tmp_path: Path) -> None:
    first = about(i=1, f=0.5, n=1, b=True, s="a", o={"ü": 1}, u=None, late=None)
    names = ["i", "f", "n", "b", "s", "o", "u", "late"]
    raw = of_jsons(tmp_path, first, about(n=0.5, o=[1], late=7), keep=names)
    types = [raw.table.schema.field(name).type for name in names]
    assert types == [pa.int64(), pa.float64(), pa.float64(), pa.bool_(), *[pa.string()] * 3, pa.int64()]
    assert (raw.column("o"), raw.column("n"), raw.column("i")) == (['{"ü": 1}', "[1]"], [1.0, 0.5], [1, None])


def test_the_types_of_the_sidecar_win_over_those_of_json(tmp_path: Path) -> None:
    """json knows no int32, and the first samples may hold nothing but nulls."""
    write_parquet(
        tmp_path / "0.parquet", {"width": pa.array([1], pa.int32()), "punsafe": pa.array([0.5], pa.float32())}
    )
    write_tar(tmp_path / "0.tar", [("0.jpg", b"x"), ("0.json", about(width=640, punsafe=None))])
    raw = read_one(tmp_path, keep=["width", "punsafe"])
    assert [raw.table.schema.field(name).type for name in ("width", "punsafe")] == [pa.int32(), pa.float32()]
    assert (raw.column("width"), raw.column("punsafe")) == ([640], [None])


def test_a_sidecars_type_that_json_cannot_express_is_not_taken(tmp_path: Path) -> None:
    """Sidecars that pandas or polars wrote again have categories, times and lists."""
    sidecar = {
        "when": pa.array([0], pa.timestamp("us")),
        "kind": pa.array(["a"]).dictionary_encode(),
        "tags": pa.array([["a"]]),
        "note": pa.array(["a"], pa.large_string()),
    }
    write_parquet(tmp_path / "0.parquet", sidecar)
    write_tar(
        tmp_path / "0.tar", [("0.jpg", b"x"), ("0.json", about(when="2026", kind="a", tags=["b"], note={"c": 1}))]
    )
    (row,) = read_one(tmp_path, keep=list(sidecar)).rows
    assert [row[name] for name in ("_reason", *sidecar)] == [None, "2026", "a", '["b"]', '{"c": 1}']


@pytest.mark.parametrize(
    "broken", [b"{", b"", b"[1]", b"\xff\xfe", about(width="wide"), about(width=2**70), about(width={"a": 1})]
)
def test_a_row_whose_metadata_cannot_be_read_is_a_reject(tmp_path: Path, broken: bytes) -> None:
    raw = of_jsons(tmp_path, about(width=1), broken, about(width=None), keep=["width"])
    assert (raw.rejects, raw.column("width")) == ({1: "bad_metadata"}, [1, None, None])


SURROGATE = b'{"caption": "cut emoji \\ud83d", "url": "http://x/\\ud83d"}'


@pytest.mark.parametrize("broken", [SURROGATE, b'{"url": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"])
@pytest.mark.parametrize("keep", [[], ["url"]])
def test_no_json_can_end_the_job(tmp_path: Path, broken: bytes, keep: list[str]) -> None:
    """Half an emoji is valid json and no valid UTF-8: captions that were cut at a length end with one."""
    assert of_jsons(tmp_path, about(url="u", caption="c"), broken, keep=keep).rejects == {1: "bad_metadata"}


def test_a_member_name_that_is_not_utf8_does_not_end_the_job(tmp_path: Path) -> None:
    """Archives from Windows tools, and any tar with a flipped bit in a header."""
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name in ("caf\xe9.jpg", "1.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    raw = read_one(tmp_path / "0.tar")
    assert (raw.column("key"), raw.total) == (["caf\ufffd", "1"], 2)


def test_a_tar_that_is_cut_in_a_member_whose_name_is_not_utf8_can_say_so(tmp_path: Path) -> None:
    cut = tar_bytes([("0.jpg", b"x"), ("caf_.jpg", bytes(5000))])[:3000].replace(b"caf_", b"caf\xe9")
    checksum = tarfile.calc_chksums(cut[1024:1536])[0]  # type: ignore[attr-defined]
    cut = cut[: 1024 + 148] + f"{checksum:06o}\0 ".encode() + cut[1024 + 156 :]
    assert "ends inside caf\ufffd.jpg" in read_beside_a_good_one(tmp_path, cut).damage


def test_the_text_is_the_txt_member_or_in_a_corpus_without_any_the_jsons_caption(tmp_path: Path) -> None:
    members = [("0.jpg", b"x"), ("0.txt", "ünï".encode()), ("1.jpg", b"x"), ("1.txt", b""), ("2.jpg", b"x")]
    raw = read_one(write_tar(tmp_path / "0.tar", [*members, ("0.json", about(caption="c"))]))
    assert raw.column("_text")[:3] == ["ünï", "", None]
    raw = of_jsons(tmp_path, about(caption="c", text="t"), about(caption=None), about())
    assert raw.column("_text") == ["c", None, None]


def test_a_text_that_is_not_utf8_is_a_reject(tmp_path: Path) -> None:
    raw = read_one(write_tar(tmp_path / "0.tar", [("0.jpg", b"x"), ("0.txt", b"\xff\xfe")]))
    assert raw.rejects == {0: "bad_metadata"}


@pytest.mark.parametrize(
    ("cut", "rows", "lost"),
    [
        (1536, 1, 0),
        (1536 + 200, 1, 0),
        (1536 + 512, 2, 1),
        (1536 + 900, 2, 1),
        (1536 + 1512, 2, 1),
        (3 * 1536, 3, 2),
    ],
    ids=["at a member", "in a header", "behind a header", "in a member", "in the padding", "before the end mark"],
)
def test_a_cut_tar_keeps_its_readable_samples_and_says_it_is_damaged(
    tmp_path: Path, cut: int, rows: int, lost: int
) -> None:
    """An upload that broke off looks like a small tar, and tarfile itself ends quietly there. Of the last sample
    nobody knows whether its text came next.
    """
    raw = read_beside_a_good_one(tmp_path, THREE[:cut])
    assert (raw.total, raw.numbers, raw.rejects) == (rows, list(range(rows)), {lost: "shard_damaged"})
    assert raw.column("_image") == [None if n == lost else bytes([65 + n]) * 1000 for n in range(rows)]
    assert raw.damage


def test_a_tar_that_is_cut_inside_a_file_of_no_sample_says_it_is_damaged(tmp_path: Path) -> None:
    cut = tar_bytes([("0.jpg", b"x"), ("README", bytes(5000)), ("1.jpg", b"x")])[:3000]
    assert read_beside_a_good_one(tmp_path, cut).damage


def test_a_sample_that_is_cut_between_its_members_is_a_reject(tmp_path: Path) -> None:
    """It would be embedded without its text, and nothing would say so."""
    cut = tar_bytes([("0.jpg", b"x"), ("0.txt", b"a"), ("1.jpg", b"x"), ("1.txt", b"lost")])[: 3 * 1024]
    (tmp_path / "0.tar").write_bytes(cut)
    raw = read_one(tmp_path / "0.tar")
    assert (raw.column("_text"), raw.rejects) == (["a", None], {1: "shard_damaged"})


def test_a_sample_that_is_cut_in_its_last_member_is_a_reject(tmp_path: Path) -> None:
    """Its text would be lost without a word."""
    raw = read_beside_a_good_one(tmp_path, tar_bytes([("0.jpg", b"x"), ("0.txt", bytes(5000))])[:3000])
    assert raw.rejects == {0: "shard_damaged"}
    assert "ends inside 0.txt" in raw.damage


@pytest.mark.parametrize("data", [b"", b"\xff" * 3000, b"\x1f\x8b" + bytes(500), b"<html>404</html>", tar_bytes([])])
def test_a_file_without_any_sample_is_a_shard_without_rows(tmp_path: Path, data: bytes) -> None:
    raw = read_beside_a_good_one(tmp_path, data)
    assert (raw.rows, raw.total) == ([], 0)
    assert ("not a readable tar" in raw.damage) == (data != tar_bytes([]))


def test_a_header_of_garbage_ends_a_tar_and_says_so(tmp_path: Path) -> None:
    raw = read_beside_a_good_one(tmp_path, THREE[:1536] + b"\xff" * 512 + THREE[2048:])
    assert (raw.total, "no end mark" in raw.damage) == (1, True)


def test_a_compressed_tar_is_read_and_a_cut_one_is_damaged(tmp_path: Path) -> None:
    whole = tar_bytes([(f"{n}.jpg", os.urandom(5000)) for n in range(3)], "w:gz")
    (tmp_path / "0.tar.gz").write_bytes(whole)
    (tmp_path / "1.tar.gz").write_bytes(whole[: len(whole) // 2])
    raws = read_all(tmp_path)
    assert (raws["0.tar.gz"].total, raws["0.tar.gz"].damage) == (3, "")
    assert (raws["1.tar.gz"].rejects, "ends inside" in raws["1.tar.gz"].damage) == ({1: "shard_damaged"}, True)


@pytest.mark.parametrize("done", [((0, 1),), ((1, 2),), ((0, 3),), ((0, 1), (2, 3))])
def test_rows_that_are_done_are_left_out_and_the_others_keep_their_number(
    tmp_path: Path, done: tuple[tuple[int, int], ...]
) -> None:
    (tmp_path / "0.tar").write_bytes(THREE)
    raw = read_one(tmp_path, done=done)
    missing = [row for row in range(3) if not any(start <= row < stop for start, stop in done)]
    assert (raw.numbers, raw.column("key"), raw.total) == (missing, [str(row) for row in missing], 3)


def test_blocks_have_a_bounded_number_of_rows_and_bytes(tmp_path: Path) -> None:
    small = read_one(write_tar(tmp_path / "0.tar", [(f"{n}.jpg", b"x") for n in range(300)]))
    assert [table.num_rows for table in small.tables] == [BLOCK_ROWS, BLOCK_ROWS, 44, 1]
    big = read_one(write_tar(tmp_path / "0.tar", [(f"{n}.jpg", bytes(3 << 20)) for n in range(7)]))
    assert [table.num_rows for table in big.tables] == [3, 3, 1, 1]
