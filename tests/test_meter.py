"""What a run counts by shard: each row once, however often Ray repeats it, and nothing kept that somebody has taken."""

import random
import time
from collections import Counter
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest

from jobs.errors import Stage
from jobs.meter import Meter, Reporter, Stopping
from jobs.pipeline import _counted
from tests.output.test_writer import bad, batch, end, good

DECODE, ANNOTATE = Stage.DECODE, Stage.ANNOTATE


def pass_on(meter: Meter, table: pa.Table, *stages: Stage) -> None:
    """As the stages of the pipeline report a block."""
    for stage in stages or (DECODE, ANNOTATE):
        rows, shares = _counted(table, None if stage is DECODE else stage)
        meter.count(stage.value, rows, 0.1, shares, {})


def counts(meter: Meter, taken: int = 0) -> dict[str, dict[str, Any]]:
    return {count.shard: asdict(count) for count in meter.snapshot(taken).shards}


def test_a_shard_is_counted_when_every_row_went_through_both_stages() -> None:
    """In whatever order its blocks, and the word of its reader, arrive."""
    meter = Meter()
    last = batch(good("a", 3), bad("a", 2, reason="empty"), end("a", 4), good("b", 0))
    pass_on(meter, last)
    meter.finish("a", 100, 4)
    pass_on(meter, batch(good("a", 0), bad("a", 1)), DECODE)
    assert counts(meter) == {}
    pass_on(meter, batch(good("a", 0), bad("a", 1)), ANNOTATE)
    ((name, count),) = counts(meter).items()
    assert (name, count["rows"], count["reasons"], count["damage"]) == ("a", 4, {"empty": 1, "truncated": 1}, None)
    assert str(meter.snapshot().shards[0]) == "a: 4 rows, 2 rejects (1 empty, 1 truncated)"


def test_what_a_model_rejects_is_in_its_shards_count() -> None:
    """Of the annotate stage only its own rejects: decode has counted the others."""
    meter = Meter()
    meter.finish("a", 100, 3)
    meter.finish("b", 100, 1)
    pass_on(meter, batch(good("a", 0, 1), bad("a", 2), end("a", 3), good("b", 0), end("b", 1)), DECODE)
    broken = [row | {"_stage": "annotate", "_reason": "non_finite", "_message": "NaN"} for row in bad("a", 1)]
    pass_on(meter, batch(good("a", 0), broken, bad("a", 2), end("a", 3), good("b", 0), end("b", 1)), ANNOTATE)
    assert {name: count["reasons"] for name, count in counts(meter).items()} == {
        "a": {"truncated": 1, "non_finite": 1},
        "b": {},
    }
    assert meter.snapshot().reasons == Counter(truncated=1, non_finite=1)


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
    meter = Meter()
    for shard, (count, _) in given.items():
        meter.finish(shard, 1, count)
    for block, stage in told:
        pass_on(meter, block, stage)
    assert {name: (c["rows"], sum(c["reasons"].values())) for name, c in counts(meter).items()} == given
    seen = meter.snapshot()
    assert (seen.rows, seen.rejected) == tuple(map(sum, zip(*given.values(), strict=True)))
    pass_on(meter, blocks[0])
    assert not meter._shards


def test_rows_that_were_there_before_are_not_counted_again() -> None:
    """A run that goes on reads the missing rows of a shard only."""
    meter = Meter()
    pass_on(meter, batch(good("a", 4), bad("a", 5), end("a", 6)))
    meter.finish("a", 100, 2, ((0, 4),))
    assert [(c["rows"], c["reasons"]) for c in counts(meter).values()] == [(2, {"truncated": 1})]


def test_rows_that_are_not_selected_are_no_rows_of_the_count() -> None:
    """A row answers for those before it that a condition left out."""
    meter = Meter()
    meter.finish("a", 100, 2)
    late = [row | {"_since": 0} for row in good("a", 7)]
    closing = [row | {"_since": 9} for row in end("a", 20)]
    pass_on(meter, batch(late, bad("a", 8), closing))
    assert [(c["rows"], c["reasons"]) for c in counts(meter).values()] == [(2, {"truncated": 1})]


def test_a_damaged_shard_says_so() -> None:
    meter = Meter()
    meter.finish("a", 100, 1)
    pass_on(meter, batch(good("a", 0), end("a", 1, "the tar is cut")))
    assert str(meter.snapshot().shards[0]) == "a: 1 rows, 0 rejects; damaged: the tar is cut"


def test_counts_leave_when_they_were_taken_and_not_when_the_answer_was_lost() -> None:
    """70,000 shards: what the driver has must not stay in the meter, and what it did not get must."""
    meter, taken = Meter(), 0
    for number in range(100):
        shard = f"{number:03d}"
        meter.finish(shard, 1, 1)
        pass_on(meter, batch(bad(shard, 0), end(shard, 1)))
        if number % 10 == 9:
            first = list(counts(meter, taken))
            assert first == list(counts(meter, taken)) == [f"{n:03d}" for n in range(number - 9, number + 1)]
            taken = meter.snapshot(taken).taken + len(first)
    assert taken == 100
    assert len(meter.snapshot(100).shards) + len(meter._shards) == 0
    assert len(meter._worst) == 3
    assert meter.snapshot(3).taken == 100


def test_the_worst_shards_are_told_with_their_reasons() -> None:
    """The first thing somebody asks when a run stops for its rejects: everywhere, or in one shard?"""
    meter = Meter()
    assert meter.worst() == {}
    for shard, count in (("a", 1), ("b", 5), ("c", 3), ("d", 2), ("e", 0)):
        pass_on(meter, batch(good(shard, 9), bad(shard, *range(count))))
        if shard == "b":
            meter.finish(shard, 1, 6, ((5, 9),))
            pass_on(meter, batch(end(shard, 10)))
            assert list(counts(meter)) == ["b"]
    assert meter.worst() == {shard: {"truncated": count} for shard, count in (("b", 5), ("c", 3), ("d", 2))}


def test_what_somebody_should_know_of_a_shard_names_it() -> None:
    meter, block = Meter(), ("a", 0, 8)
    meter.set_aside("b", "403")
    assert [meter.begin(block), meter.begin(block)] == ["go", "carefully"]
    assert [(note.event, note.shard, str(note)) for note in meter.snapshot().notes] == [
        ("set_aside", "b", "b: set aside: 403"),
        ("note", "a", "a: a process died while decoding; its images are now decoded one by one"),
    ]


def test_a_stage_asks_once_a_second_whether_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of them ask one meter, each for every block."""
    answers, clock = [True, False], [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stopping = Stopping(Reporter(lambda *_: None, lambda _: answers.pop()))
    heard = []
    for clock[0] in (0.0, 0.5, 1.0, 1.5, 2.0):
        heard.append(stopping())
    assert (heard, answers) == ([False, False, False, True, True], [])
