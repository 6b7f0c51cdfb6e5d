"""Row ranges add up to the rows that were read, in any order and however they are split."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.row_ranges import Coverage, Range, merge, outside, to_ranges

ROWS = st.sets(st.integers(0, 59))


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


@given(ROWS, st.randoms(use_true_random=False), st.sampled_from([1, 2]))
def test_ranges_hold_exactly_the_rows_they_were_made_of(rows: set[int], order: random.Random, copies: int) -> None:
    shuffled = sorted(rows) * copies
    order.shuffle(shuffled)
    ranges = to_ranges(np.array(shuffled, np.int32))
    assert inside(ranges) == rows
    assert merge(ranges) == ranges


@given(ROWS)
def test_outside_is_the_complement_of_the_ranges(rows: set[int]) -> None:
    asked = np.arange(-2, 62)
    missing = asked[outside(asked, to_ranges(np.array(sorted(rows), np.int64)))]
    assert set(missing.tolist()) == set(range(-2, 62)) - rows


@st.composite
def pieces(draw: st.DrawFn) -> tuple[int, list[Coverage]]:
    """A shard's rows and end, cut into objects in any order; one of them is there twice."""
    total = draw(st.integers(1, 59))
    cuts = [0, *sorted(draw(st.sets(st.integers(1, total - 1)) if total > 1 else st.just(set()))), total]
    parts = [Coverage(((start, stop),)) for start, stop in itertools.pairwise(cuts)]
    return total, draw(st.permutations([*parts, draw(st.sampled_from(parts)), Coverage((), total)]))


@given(pieces())
def test_objects_in_any_order_and_overlap_cover_a_shard(shard: tuple[int, list[Coverage]]) -> None:
    """A task that Ray repeats, or a run that was cut, leaves objects that overlap."""
    total, parts = shard
    whole, seen = Coverage(), set[int]()
    for part in parts:
        whole |= part
        seen |= inside(part.ranges)
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
