"""`where`, `sample` and `limit` select the right rows; all others are accounted for and not read."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import schema
from jobs.config import JobConfig, StorageConfig
from jobs.errors import ConfigError, JobError
from jobs.row_ranges import Coverage, Range, coverage_by_shard, subtract
from jobs.sources import ReadUnit, Source
from jobs.sources.discover import discover, read
from jobs.sources.where import parse
from jobs.storage import Storage
from tests.support.faulty_s3 import FaultyS3
from tests.support.shards import (
    about,
    accounted,
    listed,
    of_jsons,
    put_folder,
    read_all,
    read_one,
    refusal,
    write_parquet,
    write_tar,
)

OUT = {"output": {"path": "out"}}
COLUMNS = {
    "n": list(range(100)),
    "score": [None if n % 10 == 3 else n / 100 for n in range(100)],
    "lang": [("en", "de", None)[n % 3] for n in range(100)],
    "text": [f"picture {n}" for n in range(100)],
    "image": [bytes([n]) * 20_000 for n in range(100)],
}


def shard(folder: Path, name: str = "0.parquet", group: int = 10) -> Path:
    return write_parquet(folder / name, COLUMNS, group=group, compression="none")


def numbers(table: pa.Table, text: str) -> list[int]:
    return [row for row, held in enumerate(parse(text).evaluate(table).to_pylist()) if held]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n > 96", [97, 98, 99]),
        ("3 <= n < 5 or n == 50", [3, 4, 50]),
        ("score > 0.97 and lang == 'en'", [99]),
        ("score is None and n < 20", [3, 13]),
        ("score is not None and n < 3", [0, 1, 2]),
        ("not score < 0.98", [98, 99]),  # null is not selected by not, either
        ("lang not in ('en', 'de') and n < 9", []),
        ("n in [5, 7, 1000]", [5, 7]),
        ("'picture 4' in text and n < 45", [4, 40, 41, 42, 43, 44]),
        ("len(text) < 10 and n > 8", [9]),
        ("n * n / 3 > 3200", [98, 99]),
        ("n - 98 > -0.5", [98, 99]),
        ("column('n') == 7", [7]),
        ("1 / (n - 5) > 0.9", [5, 6]),  # infinity, and no end of the run
        ("n == 5 or 1 / (n - 5) < -0.9", [4, 5]),
        (f"n in {tuple(range(97, 100_000))}", [97, 98, 99]),
    ],
)
def test_a_condition_takes_the_rows_it_says(text: str, expected: list[int]) -> None:
    assert numbers(pa.table(COLUMNS), text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "n >", "n = 1", "n & 1", "n", "n > 'a'", "lang > 3", "nothing > 1", "__import__('os').remove('x')",
        "(lambda: 1)()", "n.real > 1", "n if n else 1", "[n for n in text]", "n == None", "f'{n}' == '1'",
        "text[0] == 'a'", "text + 1 > 2", "n > 99999999999999999999999", " or ".join(["n == 1"] * 20_000),
        "(" * 300 + "n" + ")" * 300, "10 ** 10 ** 10 > n", "n in text", "x\0 > 1",
    ],
)  # fmt: skip
def test_what_is_no_condition_is_a_wrong_recipe_and_never_run(tmp_path: Path, text: str) -> None:
    shard(tmp_path)
    with pytest.raises(JobError, match=r"source\.where"):
        listed(tmp_path, where=text)


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    shard(tmp_path)
    assert "no column 'aesthetic' (source.where)" in refusal(tmp_path, where="aesthetic > 5")
    with pytest.raises(ConfigError, match="lang is string"):
        listed(tmp_path, where="lang > 5")


DONE = st.lists(st.tuples(st.integers(0, 99), st.integers(1, 30)), max_size=4)
WHERE = st.sampled_from([None, "n > 41", "lang == 'de'", "lang == 'en'", "n < 0", "score > 0.5", "24 < n < 61"])


@settings(max_examples=60, deadline=None)
@given(where=WHERE, fraction=st.sampled_from([None, 0.3]), spans=DONE, split=st.booleans(), limit=st.integers(0, 60))
def test_every_row_is_selected_or_answered_for_whatever_was_done_before(
    tmp_path_factory: pytest.TempPathFactory, where: str | None, fraction: float | None, spans: list[Range],
    split: bool, limit: int,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("selection")
    shard(folder)
    keys: dict[str, Any] = {"where": where}
    keys |= {"sample": {"fraction": fraction}} if fraction else {}
    keys |= {"limit": limit} if limit else {}
    whole = read_one(folder, **keys)
    total = accounted(whole.tables)
    assert total.complete
    assert total.count == len(whole.numbers)
    ended = total.total or 0
    merged = Coverage()
    for start, count in spans:
        merged |= Coverage(((start, min(start + count, ended)),) if start < ended else ())
    source = listed(folder, **keys)
    left = [table for unit in units(source, merged.ranges, split) for table in read(Storage(), source.layout, unit)]
    now = accounted(left)
    assert now.ranges == subtract(((0, ended),) if ended else (), merged.ranges)  # nothing twice, nothing missing
    rows = sorted(row["row"] for table in left for row in table.to_pylist() if not row["_end"])
    assert rows == [n for n in whole.numbers if not any(a <= n < b for a, b in merged.ranges)]


def units(source: Source, done: tuple[Range, ...], split: bool) -> list[ReadUnit]:
    (one,) = source.shards
    if not split:
        return [ReadUnit(one, None, done)]
    return [ReadUnit(one, tuple(range(3)), done, last=False), ReadUnit(one, tuple(range(3, 10)), done)]


@pytest.mark.parametrize("group", [1, 3, 1000])
@pytest.mark.parametrize("where", ["not w > 1", "w != 5", "not (w == 5)", "w != w", "w not in (5.0,)", "w is None"])
def test_what_is_taken_does_not_depend_on_row_groups_and_their_statistics(
    tmp_path: Path, where: str, group: int
) -> None:
    """Statistics ignore NaN, which counts as null."""
    values = [2.0, 3.0, float("nan"), 5.0, 5.0, float("nan"), None, 0.5]
    write_parquet(tmp_path / "0.parquet", {"w": values, "image": [b"x"] * 8}, group=group)
    known = [None if w is None or w != w else w for w in values]
    expected = {
        "not w > 1": [7], "w != 5": [0, 1, 7], "not (w == 5)": [0, 1, 7], "w != w": [], "w not in (5.0,)": [0, 1, 7],
        "w is None": [n for n, w in enumerate(known) if w is None],
    }  # fmt: skip
    assert read_one(tmp_path, where=where).numbers == expected[where]


@pytest.mark.parametrize("where", ["id > 163208757263.5", "id > 0.5 and id != 163208757263", "id in (163208757264,)"])
def test_statistics_that_do_not_fit_a_condition_rule_nothing_out(tmp_path: Path, where: str) -> None:
    """Comparing COYO's ids with a float made every shard look damaged, and so empty."""
    write_parquet(tmp_path / "0.parquet", {"id": [163208757263, 163208757264], "image": [b"x"] * 2})
    raw = read_one(tmp_path, where=where)
    assert (raw.numbers, raw.damage) == ([1], "")


def test_a_shard_whose_column_is_of_another_type_is_converted(tmp_path: Path) -> None:
    write_parquet(tmp_path / "0.parquet", {"w": pa.array([1, 2], pa.int32()), "image": [b"x"] * 2})
    write_parquet(tmp_path / "1.parquet", {"w": ["1", "2"], "image": [b"x"] * 2})
    assert {name: raw.numbers for name, raw in read_all(tmp_path, where="w > 1").items()} == {
        "0.parquet": [1], "1.parquet": [1],
    }  # fmt: skip


def test_a_sample_of_rows_is_one_of_rejects_too(tmp_path: Path) -> None:
    jsons = [b"{" if n % 2 else about(w=n) for n in range(400)]
    raw = of_jsons(tmp_path, *jsons, keep=["w"], sample={"fraction": 0.1})
    assert 10 < len(raw.numbers) < 80
    assert 2 < len(raw.rejects) < 45


def test_tars_are_chosen_from_by_their_json(tmp_path: Path) -> None:
    raw = of_jsons(
        tmp_path, *[about(n=n, lang="en" if n % 2 else "de") for n in range(9)], where="n > 3 and lang == 'en'"
    )
    assert raw.numbers == [5, 7]
    assert accounted(raw.tables) == Coverage(((0, 9),), 9, None, 7)


def test_a_row_whose_columns_cannot_be_read_is_a_reject_and_not_left_out(tmp_path: Path) -> None:
    raw = of_jsons(tmp_path, about(n=1), b"{", about(n="x"), about(n=5), where="n > 3")
    assert (raw.numbers, raw.rejects) == ([1, 2, 3], {1: "bad_metadata", 2: "bad_metadata"})


def test_a_sample_is_the_same_in_every_run_and_part_of_a_bigger_one(tmp_path: Path) -> None:
    many = {"image": [b"x"] * 5000}
    for name in ("a.parquet", "b.parquet"):
        write_parquet(tmp_path / name, many)
    taken = {
        fraction: {name: set(raw.numbers) for name, raw in read_all(tmp_path, sample={"fraction": fraction}).items()}
        for fraction in (0.01, 0.1, 0.5)
    }
    for name in ("a.parquet", "b.parquet"):
        assert taken[0.01][name] < taken[0.1][name] < taken[0.5][name]
    sizes = {fraction: sum(map(len, shards.values())) / 10_000 for fraction, shards in taken.items()}
    assert sizes == pytest.approx({0.01: 0.01, 0.1: 0.1, 0.5: 0.5}, rel=0.25)
    assert taken[0.1]["a.parquet"] != taken[0.1]["b.parquet"]
    other = read_one(tmp_path / "a.parquet", sample={"fraction": 0.1, "seed": 1})
    assert set(other.numbers) != taken[0.1]["a.parquet"]


@pytest.mark.parametrize(("limit", "expected"), [(1, [1]), (7, [7]), (100, [100]), (101, [100, 1]), (1000, [100, 100])])
def test_a_limit_takes_the_first_rows_and_names_no_shard_behind_them(
    tmp_path: Path, limit: int, expected: list[int]
) -> None:
    shard(tmp_path, "0.parquet")
    shard(tmp_path, "1.parquet")
    found = read_all(tmp_path, limit=limit)
    assert [len(raw.numbers) for raw in found.values()] == expected
    assert all(accounted(raw.tables).complete for raw in found.values())
    assert all(not raw.rejects and not raw.damage for raw in found.values())


def test_a_limit_counts_selected_rows_in_tars_too(tmp_path: Path) -> None:
    for name in ("0.tar", "1.tar"):
        members = [(f"{n}.{kind}", data) for n in range(9) for kind, data in (("jpg", b"x"), ("json", about(n=n)))]
        write_tar(tmp_path / name, members)
    found = read_all(tmp_path, limit=5, where="n > 5")
    assert [raw.numbers for raw in found.values()] == [[6, 7, 8], [6, 7]]
    assert accounted(found["1.tar"].tables) == Coverage(((0, 8),), 8, None, 6)


def test_a_selection_travels_to_other_processes(tmp_path: Path) -> None:
    shard(tmp_path)
    source = listed(tmp_path, where="n > 96", limit=2)
    again = pickle.loads(pickle.dumps(source))
    assert [table.num_rows for table in read(Storage(), again.layout, ReadUnit(again.shards[0]))][-1] == 1


def test_a_store_is_not_asked_for_what_no_selected_row_needs(s3: str, bucket: str, tmp_path: Path) -> None:
    """Row groups by their statistics, images by reading the condition's columns first; by the store's own count."""
    shard(tmp_path)
    put_folder(tmp_path, bucket)

    def sent(where: str | None) -> int:
        source = discover(
            storage, JobConfig.from_dict({"source": {"path": bucket, "keep": [], "where": where}, **OUT}).source
        )
        before = store.sent
        for one in source.shards:
            list(read(storage, source.layout, ReadUnit(one)))
        return store.sent - before

    with FaultyS3(s3) as store:
        storage = Storage(StorageConfig(endpoint_url=store.endpoint))
        everything = sent(None)
        assert everything > 2_000_000
        assert sent("n >= 90") < 0.2 * everything
        assert sent("text == 'picture 55'") < 0.2 * everything
        assert sent("n < 0") < 0.1 * everything


def test_ranges_of_rows_that_answer_for_others_are_whole() -> None:
    table = pa.table(
        {schema.SHARD: ["a", "a", "b"], schema.ROW: pa.array([9, 4, 2], pa.int32()),
         schema.SINCE: pa.array([5, 0, 2], pa.int32())}
    )  # fmt: skip
    assert coverage_by_shard(table) == {"a": Coverage(((0, 10),), unselected=8), "b": Coverage(((2, 3),))}
    assert np.sum([part.count for part in coverage_by_shard(table).values()]) == 3
