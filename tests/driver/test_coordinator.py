"""What a run counts by shard: each row once, however often Ray repeats it, and nothing kept that somebody has taken."""

import random
import time
from collections import Counter
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest

from jobs.driver.coordinator import Coordinator, Instruction, StopSignal, count_rows
from jobs.driver.run_state import BlockId
from jobs.errors import Stage
from tests.support.rows import bad, batch, end, good

DECODE, ANNOTATE = Stage.DECODE, Stage.ANNOTATE


def pass_on(coordinator: Coordinator, table: pa.Table, *stages: Stage) -> None:
    """As the stages of the pipeline report a block."""
    for stage in stages or (DECODE, ANNOTATE):
        rows, shares = count_rows(table, None if stage is DECODE else stage)
        coordinator.record_work(stage, rows, 0.1, shares, {})


def counts(coordinator: Coordinator, taken: int = 0) -> dict[str, dict[str, Any]]:
    return {count.shard: asdict(count) for count in coordinator.snapshot(taken).shards}


def test_a_shard_is_counted_when_every_row_went_through_both_stages() -> None:
    """In whatever order its blocks, and the word of its reader, arrive."""
    coordinator = Coordinator()
    last = batch(good("a", 3), bad("a", 2, reason="empty"), end("a", 4), good("b", 0))
    pass_on(coordinator, last)
    coordinator.finish_shard("a", 100, 4)
    pass_on(coordinator, batch(good("a", 0), bad("a", 1)), DECODE)
    assert counts(coordinator) == {}
    pass_on(coordinator, batch(good("a", 0), bad("a", 1)), ANNOTATE)
    ((name, count),) = counts(coordinator).items()
    assert (name, count["rows"], count["reasons"], count["damage"]) == ("a", 4, {"empty": 1, "truncated": 1}, None)
    assert str(coordinator.snapshot().shards[0]) == "a: 4 rows, 2 rejects (1 empty, 1 truncated)"


def test_what_a_model_rejects_is_in_its_shards_count() -> None:
    """Of the annotate stage only its own rejects: decode has counted the others."""
    coordinator = Coordinator()
    coordinator.finish_shard("a", 100, 3)
    coordinator.finish_shard("b", 100, 1)
    pass_on(coordinator, batch(good("a", 0, 1), bad("a", 2), end("a", 3), good("b", 0), end("b", 1)), DECODE)
    broken = [row | {"_stage": "annotate", "_reason": "non_finite", "_message": "NaN"} for row in bad("a", 1)]
    pass_on(coordinator, batch(good("a", 0), broken, bad("a", 2), end("a", 3), good("b", 0), end("b", 1)), ANNOTATE)
    assert {name: count["reasons"] for name, count in counts(coordinator).items()} == {
        "a": {"truncated": 1, "non_finite": 1},
        "b": {},
    }
    assert coordinator.snapshot().reasons == Counter(truncated=1, non_finite=1)


@pytest.mark.parametrize("seed", range(20))
def test_blocks_that_ray_repeats_count_once(seed: int) -> None:
    """A node that dies costs its blocks; their rejects are not twice as many for that."""
    r = random.Random(seed)
    blocks, given = [], {}
    for shard in "abc":
        rows = [bad(shard, row) if r.random() < 0.3 else good(shard, row) for row in range(r.randrange(30))]
        given[shard] = (len(rows), sum("_reason" in row[0] for row in rows))
        cuts = sorted(r.sample(range(len(rows) + 1), min(3, len(rows))))
        edges = [0, *cuts, len(rows)]
        blocks += [batch(*rows[a:b]) for a, b in pairwise(edges) if a < b]
        blocks.append(batch(end(shard, len(rows))))
    told = [(block, stage) for block in blocks for stage in (DECODE, ANNOTATE)]
    told += r.choices(told, k=10)
    r.shuffle(told)
    coordinator = Coordinator()
    for shard, (count, _) in given.items():
        coordinator.finish_shard(shard, 1, count)
    for block, stage in told:
        pass_on(coordinator, block, stage)
    assert {name: (c["rows"], sum(c["reasons"].values())) for name, c in counts(coordinator).items()} == given
    seen = coordinator.snapshot()
    assert (seen.rows, seen.rejected) == tuple(map(sum, zip(*given.values(), strict=True)))
    pass_on(coordinator, blocks[0])
    assert not coordinator._shards


def test_rows_that_were_there_before_are_not_counted_again() -> None:
    """A run that goes on reads the missing rows of a shard only."""
    coordinator = Coordinator()
    pass_on(coordinator, batch(good("a", 4), bad("a", 5), end("a", 6)))
    coordinator.finish_shard("a", 100, 2, ((0, 4),))
    assert [(c["rows"], c["reasons"]) for c in counts(coordinator).values()] == [(2, {"truncated": 1})]


def test_rows_that_are_not_selected_are_no_rows_of_the_count() -> None:
    """A row answers for those before it that a condition left out."""
    coordinator = Coordinator()
    coordinator.finish_shard("a", 100, 2)
    late = [row | {"_since": 0} for row in good("a", 7)]
    closing = [row | {"_since": 9} for row in end("a", 20)]
    pass_on(coordinator, batch(late, bad("a", 8), closing))
    assert [(c["rows"], c["reasons"]) for c in counts(coordinator).values()] == [(2, {"truncated": 1})]


def test_a_damaged_shard_says_so() -> None:
    coordinator = Coordinator()
    coordinator.finish_shard("a", 100, 1)
    pass_on(coordinator, batch(good("a", 0), end("a", 1, "the tar is cut")))
    assert str(coordinator.snapshot().shards[0]) == "a: 1 rows, 0 rejects; damaged: the tar is cut"


def test_counts_leave_when_they_were_taken_and_not_when_the_answer_was_lost() -> None:
    """70,000 shards: what the driver has must not stay in the coordinator, and what it did not get must."""
    coordinator, taken = Coordinator(), 0
    for number in range(100):
        shard = f"{number:03d}"
        coordinator.finish_shard(shard, 1, 1)
        pass_on(coordinator, batch(bad(shard, 0), end(shard, 1)))
        if number % 10 == 9:
            first = list(counts(coordinator, taken))
            assert first == list(counts(coordinator, taken)) == [f"{n:03d}" for n in range(number - 9, number + 1)]
            taken = coordinator.snapshot(taken).taken + len(first)
    assert taken == 100
    assert len(coordinator.snapshot(100).shards) + len(coordinator._shards) == 0
    assert len(coordinator._worst) == 3
    assert coordinator.snapshot(3).taken == 100


def test_the_worst_shards_are_told_with_their_reasons() -> None:
    """The first thing somebody asks when a run stops for its rejects: everywhere, or in one shard?"""
    coordinator = Coordinator()
    assert coordinator.worst_shards() == {}
    for shard, count in (("a", 1), ("b", 5), ("c", 3), ("d", 2), ("e", 0)):
        pass_on(coordinator, batch(good(shard, 9), bad(shard, *range(count))))
        if shard == "b":
            coordinator.finish_shard(shard, 1, 6, ((5, 9),))
            pass_on(coordinator, batch(end(shard, 10)))
            assert list(counts(coordinator)) == ["b"]
    assert coordinator.worst_shards() == {
        shard: {"truncated": count} for shard, count in (("b", 5), ("c", 3), ("d", 2))
    }


def test_what_somebody_should_know_of_a_shard_names_it() -> None:
    coordinator, block = Coordinator(), BlockId("a", 0, 8)
    coordinator.set_aside("b", "403")
    tries = [coordinator.begin_block(block), coordinator.begin_block(block)]
    assert tries == [Instruction.DECODE, Instruction.ISOLATE]
    assert [(note.event, note.shard, str(note)) for note in coordinator.snapshot().notes] == [
        ("set_aside", "b", "b: set aside: 403"),
        ("note", "a", "a: a process died while decoding; its images are now decoded one by one"),
    ]


def test_a_stage_asks_once_a_second_whether_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of them ask one coordinator, each for every block."""
    coordinator, answers, clock = Coordinator(), [True, False], [0.0]
    monkeypatch.setattr(coordinator, "is_stopping", lambda: answers.pop())
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stopping = StopSignal(coordinator)
    heard = []
    for clock[0] in (0.0, 0.5, 1.0, 1.5, 2.0):
        heard.append(stopping())
    assert (heard, answers) == ([False, False, False, True, True], [])
