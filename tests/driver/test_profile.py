"""The profile of a run, and its advice: from made-up counts, as a user with that trouble would see them."""

from dataclasses import replace

import pytest

from jobs.driver.coordinator import Coordinator
from jobs.driver.profile import profile
from jobs.driver.resources import Resources
from jobs.errors import Stage

GPU = Resources("cuda", 2, 0.5, 1, 2, 12, 128, 8192)
CPU = Resources("cpu", 1, 0.5, 2, 1, 2, 32, 1024)


def seen(rows: int, reading: float, decoding: float, forward: float, seconds: float) -> Coordinator:
    """Every stage at work from second 0 to `seconds`; the others are busy seconds of all its workers."""
    coordinator = Coordinator()
    for stage, busy in (
        (Stage.SOURCE, reading),
        (Stage.DECODE, decoding),
        (Stage.ANNOTATE, forward * 1.2),
        (Stage.SINK, 1.0),
    ):
        coordinator.record_work(
            stage, rows, busy, {}, {"forward": forward, "prepare": forward * 0.2} if stage is Stage.ANNOTATE else {}
        )
        tally = coordinator.snapshot().stages[stage]
        tally.first, tally.last = 0.0, seconds
    return coordinator


def test_gpus_that_starve_are_told_how_many_cores_they_need() -> None:
    told = profile(seen(120_000, 10.0, 1190.0, 80.0, 100.0).snapshot(), GPU)
    assert told["stages"]["annotate"]["busy"] == pytest.approx(0.4)
    assert told["stages"]["decode"]["could"] == pytest.approx(1200)
    assert told["stages"]["annotate"]["could"] == pytest.approx(3000)
    assert told["advice"] == "12 cores read and decode 1,200 rows/s, 2 GPUs process 3,000: add 9 CPU cores per GPU"


def test_slow_storage_is_told_apart_from_slow_decoding() -> None:
    told = profile(seen(120_000, 900.0, 300.0, 80.0, 100.0).snapshot(), GPU)
    assert "check the storage first" in told["advice"]


def test_gpus_that_are_busy_set_the_pace() -> None:
    told = profile(seen(120_000, 10.0, 590.0, 196.0, 100.0).snapshot(), GPU)
    assert "the GPUs are the bottleneck, 98% busy" in told["advice"]


def test_a_short_run_is_not_told_to_buy_cores() -> None:
    told = profile(seen(1000, 0.1, 2.0, 3.0, 10.0).snapshot(), replace(GPU, actors=1))
    assert "short runs" in told["advice"]


@pytest.mark.parametrize(("decoding", "forward", "helps"), [(10.0, 90.0, "a GPU"), (90.0, 10.0, "more cores")])
def test_without_a_gpu_the_bigger_share_is_named(decoding: float, forward: float, helps: str) -> None:
    assert helps in profile(seen(1000, 0.0, decoding, forward, 100.0).snapshot(), CPU)["advice"]


def test_one_core_is_one_core() -> None:
    one = replace(CPU, decode_cpus=1)
    told = profile(seen(1000, 0.0, 10.0, 90.0, 100.0).snapshot(), one)
    rates = "1 core reads and decodes 100 rows/s, the models process 22"
    assert told["advice"] == f"{rates}: model inference takes 90% of CPU time; a GPU would help"


def test_a_run_in_which_nothing_happened_has_a_profile() -> None:
    assert profile(Coordinator().snapshot(), CPU)["advice"] == "nothing was annotated"


def test_phases_are_summed_over_calls() -> None:
    coordinator = seen(10, 1.0, 1.0, 2.0, 10.0)
    coordinator.record_work(Stage.ANNOTATE, 10, 3.0, {}, {"forward": 1.5, "output": 0.5})
    phases = profile(coordinator.snapshot(), CPU)["stages"]["annotate"]["phase_seconds"]
    assert phases == {"forward": 3.5, "prepare": 0.4, "output": 0.5}
