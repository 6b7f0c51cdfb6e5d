"""What is left to read is read once, in tasks of a sensible size."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.config import FetchConfig, SourceConfig
from jobs.driver import tasks as planning
from jobs.driver.coordinator import Coordinator
from jobs.driver.tasks import GROUP_BYTES, SPLIT_BYTES, Partition, Work, plan_tasks
from jobs.errors import ConfigError
from jobs.pipeline.read import Reader
from jobs.row_ranges import Coverage
from jobs.sources import Layout, ReadUnit, Shard, Source
from jobs.sources.discover import read
from jobs.storage import Entry, Storage
from tests.support.shards import Raw, listed, overwrite, write_parquet

MB = 1 << 20
PINNED = SourceConfig(path="/none")


def tars(*sizes: int) -> Source:
    """Tars are not opened for planning, so that these are not there."""
    layout = Layout("webdataset", ("jpg",), (), "__key__", pa.string(), ())
    shards = tuple(Shard(f"{n}.tar", Entry(f"/none/{n}.tar", size)) for n, size in enumerate(sizes))
    return Source(layout, shards, "", PINNED)


def planned(source: Source, coverage: dict[str, Coverage] | None = None, cores: int = 1, part: str = "1/1") -> Work:
    return plan_tasks(Storage(), source, coverage or {}, cores=cores, part=Partition.parse(part))


def shards(work: Work) -> list[list[str]]:
    return [[unit.shard.name for unit in task] for task in work.tasks]


def names(work: Work) -> list[str]:
    return [name for task in shards(work) for name in task]


def read_units(source: Source, work: Work) -> Raw:
    units = [unit for task in work.tasks for unit in task]
    return Raw([table for unit in units for table in read(Storage(), source.layout, unit)])


@pytest.fixture
def big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A Parquet file of ten row groups that counts as too big for one task."""
    columns: dict[str, Any] = {"id": list(range(95)), "image": [bytes(1000)] * 95}
    path = write_parquet(tmp_path / "0.parquet", columns, group=10, compression="none")
    monkeypatch.setattr(planning, "SPLIT_BYTES", 25_000)
    return listed(path)


def test_complete_shards_are_skipped_and_never_opened() -> None:
    """Opening 3,000 finished shards on S3 makes every restart slow."""
    big = Source(Layout("parquet", ("image",), (), None, pa.string(), ()), tars(SPLIT_BYTES * 2).shards, "", PINNED)
    work = planned(big, {"0.tar": Coverage(((0, 9),), 9)})
    assert work == Work(tasks=(), shards=1, shards_done=1, rows_done=9, bytes_left=0)


def test_an_incomplete_shard_is_read_less_its_rows() -> None:
    have = {"0.tar": Coverage(((0, 9),), 9), "1.tar": Coverage(((0, 4), (6, 8)), None)}
    work = planned(tars(5, 6, 7), have)
    assert [unit.done for task in work.tasks for unit in task] == [((0, 4), (6, 8)), ()]
    assert (work.shards, work.shards_done, work.rows_done, work.bytes_left) == (3, 1, 15, 13)


def test_a_shard_with_all_its_rows_and_no_end_is_read_again() -> None:
    assert shards(planned(tars(5), {"0.tar": Coverage(((0, 9),))})) == [["0.tar"]]


def test_small_shards_share_a_task_in_order() -> None:
    work = planned(tars(*[10 * MB] * 100))
    assert names(work) == [f"{n}.tar" for n in range(100)]
    assert {len(task) for task in shards(work)} == {4}
    assert all(sum(unit.shard.entry.size for unit in task) >= GROUP_BYTES for task in work.tasks)


def test_big_shards_have_a_task_each() -> None:
    assert shards(planned(tars(500 * MB, 500 * MB))) == [["0.tar"], ["1.tar"]]


@pytest.mark.parametrize("cores", [1, 4, 16])
def test_few_small_shards_are_spread_over_all_cores(cores: int) -> None:
    """128 small shards in one task leave every other core without work."""
    assert len(planned(tars(*[MB] * 128), cores=cores).tasks) >= min(4 * cores, 64)


def test_shards_without_bytes_are_planned_too() -> None:
    assert sorted(names(planned(tars(0, 0)))) == ["0.tar", "1.tar"]


def test_an_empty_source_of_work_has_no_tasks() -> None:
    assert planned(tars()).tasks == ()


def test_a_big_parquet_file_is_split_by_row_groups(big: Source) -> None:
    units = [unit for task in planned(big).tasks for unit in task]
    assert [unit.row_groups for unit in units] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]


def test_a_split_file_gives_every_row_once_and_closes_its_shard(big: Source) -> None:
    raw = read_units(big, planned(big))
    assert raw.numbers == raw.column("key") == list(range(95))
    assert (raw.total, raw.damage) == (95, "")


@pytest.mark.parametrize("have", [((0, 3),), ((0, 95),), ((7, 44), (90, 95)), ((0, 85),)])
def test_a_split_file_that_was_begun_gives_the_rows_that_are_missing(
    big: Source, have: tuple[tuple[int, int], ...]
) -> None:
    raw = read_units(big, planned(big, {"0.parquet": Coverage(have)}))
    assert Counter(raw.numbers) + Counter(row for a, b in have for row in range(a, b)) == Counter(range(95))
    assert raw.total == 95


def test_damage_in_the_middle_of_a_split_file_is_said_and_the_file_counts_once(big: Source) -> None:
    """A run of 10 shards would stand at 14 of 10."""
    overwrite(Path(big.shards[0].entry.path), "image", 0, lambda size: b"\xff" * size)
    (shard,) = listed(big.shards[0].entry.path).shards
    coordinator = Coordinator()
    reader = Reader(Storage(), big.layout, coordinator, FetchConfig())
    source = Source(big.layout, (shard,), "", PINNED)
    raw = Raw([table for task in planned(source).tasks for table in reader(task)])
    assert raw.numbers == list(range(95))
    assert raw.rejects == dict.fromkeys(range(10, 20), "shard_damaged")
    assert [(end["_total"], bool(end["_message"])) for end in raw.ends] == [(95, True), (95, False)]
    assert coordinator.snapshot().finished_shards == 1


def test_a_row_group_bigger_than_a_task_is_a_task(big: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SPLIT_BYTES", 1)
    assert len([unit for task in planned(big).tasks for unit in task]) == 10


def test_a_big_file_without_a_readable_footer_is_one_unit(big: Source) -> None:
    """Planning must not fail where reading would say what is wrong."""
    path = Path(big.shards[0].entry.path)
    path.write_bytes(path.read_bytes()[:-100])
    cut = Shard("0.parquet", Entry(str(path), path.stat().st_size))
    assert planned(Source(big.layout, (cut,), "", PINNED)).tasks == ((ReadUnit(cut),),)


def test_a_big_tar_is_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SPLIT_BYTES", 10)
    assert [unit.row_groups for task in planned(tars(1000)).tasks for unit in task] == [None]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_parts_of_a_source_hold_every_shard_once_and_about_as_many(count: int) -> None:
    parts = [names(planned(tars(*[MB] * 3000), part=f"{n}/{count}")) for n in range(1, count + 1)]
    assert Counter(name for part in parts for name in part) == Counter(f"{n}.tar" for n in range(3000))
    assert min(map(len, parts)) >= 0.9 * 3000 / count


def test_a_part_without_shards_is_planned_to_nothing() -> None:
    """Eight parts of five shards: some have none, and their runs are done at once."""
    works = [planned(tars(*[MB] * 5), {"0.tar": Coverage(((0, 3),))}, part=f"{n}/8") for n in range(1, 9)]
    assert sum(len(names(work)) for work in works) == 5
    assert Work(tasks=(), shards=0, shards_done=0, rows_done=0, bytes_left=0) in works


def test_the_rows_of_shards_that_left_the_source_are_not_counted() -> None:
    assert planned(tars(5), {"0.tar": Coverage(((0, 3),)), "gone.tar": Coverage(((0, 50),), 50)}).rows_done == 3


def test_shards_that_come_later_move_no_other_to_another_part() -> None:
    before, after = (names(planned(tars(*[MB] * count), part="2/3")) for count in (50, 60))
    assert [name for name in after if int(name.removesuffix(".tar")) < 50] == before


@pytest.mark.parametrize("text", ["", "3", "0/2", "3/2", "a/b", "1/2/3", "-1/2", "1/", "²/3"])
def test_a_malformed_part_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--part"):
        Partition.parse(text)


def test_the_rows_that_other_parts_did_are_not_this_parts() -> None:
    """Progress would stand at 800 % of a part's rows."""
    source = tars(*[MB] * 20)
    work = planned(source, {shard.name: Coverage(((0, 10),), 10) for shard in source.shards}, part="1/2")
    assert work.rows_done == 10 * work.shards_done
