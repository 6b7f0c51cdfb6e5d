"""Row ranges add up to the rows that were read, in any order and however they are split."""

import itertools
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.output.footer import decode_provenance, encode_provenance, parquet_bytes
from jobs.row_ranges import Coverage, Range, merge, outside, to_ranges

SEEDS = range(50)


def some_rows(r: random.Random) -> set[int]:
    return {row for row in range(60) if r.random() < r.choice([0.1, 0.5, 0.9])}


def inside(ranges: tuple[Range, ...]) -> set[int]:
    return {row for start, stop in ranges for row in range(start, stop)}


@pytest.mark.parametrize(
    ("ranges", "merged"),
    [
        ([], ()),
        ([(5, 7)], ((5, 7),)),
        ([(5, 7), (0, 5)], ((0, 7),)),
        ([(0, 3), (4, 6)], ((0, 3), (4, 6))),
        ([(0, 9), (2, 3)], ((0, 9),)),
        ([(2, 5), (0, 3), (2, 5)], ((0, 5),)),
    ],
)
def test_merged_ranges_are_sorted_disjoint_and_do_not_touch(ranges: list[Range], merged: tuple[Range, ...]) -> None:
    assert merge(ranges) == merged


@pytest.mark.parametrize("seed", SEEDS)
def test_ranges_hold_exactly_the_rows_they_were_made_of(seed: int) -> None:
    r = random.Random(seed)
    rows = list(some_rows(r)) * r.choice([1, 2])
    r.shuffle(rows)
    ranges = to_ranges(np.array(rows, np.int32))
    assert inside(ranges) == set(rows)
    assert merge(ranges) == ranges


@pytest.mark.parametrize("seed", SEEDS)
def test_outside_is_the_complement_of_the_ranges(seed: int) -> None:
    rows = some_rows(random.Random(seed))
    asked = np.arange(-2, 62)
    missing = asked[outside(asked, to_ranges(np.array(sorted(rows), np.int64)))]
    assert set(missing.tolist()) == set(range(-2, 62)) - rows


@pytest.mark.parametrize("seed", SEEDS)
def test_objects_in_any_order_and_overlap_cover_a_shard(seed: int) -> None:
    """A task that Ray repeats, or an interrupted run, leaves overlapping objects."""
    r = random.Random(seed)
    total = r.randrange(1, 60)
    starts = [0, *sorted(r.sample(range(total), r.randrange(total))), total]
    parts = [Coverage(((a, b),)) for a, b in itertools.pairwise(starts) if a < b]
    parts += [r.choice(parts), Coverage((), total)]
    r.shuffle(parts)
    whole = Coverage()
    for index, part in enumerate(parts):
        whole |= part
        seen = set().union(*(inside(one.ranges) for one in parts[: index + 1]))
        assert whole.count == len(seen)
        assert whole.complete == (seen == set(range(total)) and whole.total is not None)
    assert whole.complete


@pytest.mark.parametrize(
    ("coverage", "complete"),
    [
        (Coverage(), False),
        (Coverage(((0, 5),)), False),
        (Coverage((), 0), True),
        (Coverage((), 5), False),
        (Coverage(((0, 5),), 5), True),
        (Coverage(((0, 4),), 5), False),
        (Coverage(((1, 5),), 5), False),
        (Coverage(((0, 2), (3, 5)), 5), False),
        (Coverage(((0, 5),), 5, "cut"), True),
    ],
)
def test_a_shard_is_complete_when_its_end_and_all_rows_are_there(coverage: Coverage, complete: bool) -> None:
    assert coverage.complete == complete


def test_a_shard_of_which_only_the_damage_is_known_keeps_it() -> None:
    assert Coverage(((0, 2),)) | Coverage((), 2, "cut") == Coverage(((0, 2),), 2, "cut")
    assert Coverage((), 2, "cut") | Coverage(((0, 2),)) == Coverage(((0, 2),), 2, "cut")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_footer_gives_back_what_was_written(seed: int) -> None:
    r = random.Random(seed)
    shards = {
        f"s3://b/ünï {n}.tar": Coverage(
            to_ranges(np.array(sorted(some_rows(r)), np.int32)), r.choice([None, 0, 60]), r.choice([None, 'cut "here"'])
        )
        for n in range(r.randrange(4))
    }
    assert decode_provenance(encode_provenance(shards, job="j", reasons="{}")) == (
        shards,
        {"job": "j", "reasons": "{}"},
    )


def test_vectors_are_stored_without_dictionaries_and_what_repeats_with_them() -> None:
    """Half the time of a write went into dictionaries of 16-bit floats, which made the object bigger."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8, dtype=np.float16)), 2)
    table = pa.table({"shard": ["a"] * 4, "labels": [[1, 2]] * 4, "image_embedding": vectors})
    stored = pq.read_metadata(pa.BufferReader(parquet_bytes(table, {}))).row_group(0)
    columns = [stored.column(index) for index in range(stored.num_columns)]
    assert [column.has_dictionary_page for column in columns] == [True, True, False]
