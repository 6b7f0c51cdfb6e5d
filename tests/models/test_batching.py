"""A call is split into micro-batches that fit into memory, of the fastest size."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from jobs import schema
from jobs.models import batching, cache
from jobs.models.batching import BatchTuner, FixedSize, InferenceOptions, MicroBatcher
from tests.support.architectures import classifier
from tests.support.checkpoints import column, noise, on, spec

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "CACHE", tmp_path)
    return tmp_path / "micro_batch_sizes"


class Hungry:
    """A model that has memory for `most` rows, and says which rows it saw."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.calls: list[int] = []

    def __call__(self, pixels: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.calls.append(len(pixels))
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert torch.equal(pixels[:, 0], ids)
        return pixels[:, 0], ids == 5


def rows_of(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(count)[:, None], torch.arange(count)


def test_a_batch_that_does_not_fit_is_cut_and_the_size_that_fits_is_remembered() -> None:
    """One large batch on a GPU that others use too must not end the run."""
    model = Hungry(3)
    batching = MicroBatcher(model, FixedSize())
    for calls in ([13, 6, 3, 3, 3, 3, 1], [3, 3, 3, 3, 1]):
        model.calls.clear()
        seen, broken = batching(*rows_of(13))
        assert model.calls == calls
        assert seen.tolist() == list(range(13))
        assert broken.tolist() == [row == 5 for row in range(13)]


def test_a_single_row_that_does_not_fit_is_an_error() -> None:
    model = Hungry(0)
    with pytest.raises(torch.OutOfMemoryError):
        MicroBatcher(model, FixedSize())(*rows_of(4))
    assert model.calls == [4, 2, 1]


class Timed:
    """A model on whose clock a part of n rows takes `seconds[n]`, or n."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> None:
        self.now, self.seconds, self.calls = 0.0, seconds, list[int]()
        monkeypatch.setattr(batching, "time", SimpleNamespace(thread_time=lambda: self.now))

    def __call__(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.calls.append(len(rows))
        self.now += self.seconds.get(len(rows), float(len(rows)))
        return (rows,)


def calls(model: Timed, pace: BatchTuner, count: int, times: int) -> list[list[int]]:
    """The micro-batch sizes of each of `times` calls; checks that the output equals the input."""
    found, fitted = [], MicroBatcher(model, pace)
    for _ in range(times):
        model.calls.clear()
        (seen,) = fitted(torch.arange(count))
        assert seen.tolist() == list(range(count))
        found.append(list(model.calls))
    return found


def test_the_fastest_size_is_found_on_the_runs_own_rows_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Timed(monkeypatch, {4: 4.0, 8: 5.0, 16: 20.0, 32: 60.0})
    pace = BatchTuner("a model", CPU, 32)
    assert [parts[0] for parts in calls(model, pace, 32, 10)] == [4, 4, 8, 8, 16, 16, 32, 32, 8, 8]
    assert pace.best_size == 8


def test_sizes_beyond_two_that_are_slower_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Timed(monkeypatch, {4: 3.0, 8: 7.0, 16: 15.0})
    assert [parts[0] for parts in calls(model, BatchTuner("a", CPU, 128), 128, 7)] == [4, 4, 8, 8, 16, 16, 4]


def test_a_size_that_was_slow_once_because_something_else_ran_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Timed(monkeypatch, {4: 4.0, 8: 80.0, 16: 17.0, 32: 40.0})
    pace = BatchTuner("a", CPU, 32)
    calls(model, pace, 32, 3)
    model.seconds[8] = 4.0
    calls(model, pace, 32, 5)
    assert pace.best_size == 8


def test_the_fastest_size_is_cached_for_one_model_only(monkeypatch: pytest.MonkeyPatch, cached: Path) -> None:
    calls(Timed(monkeypatch, {8: 1.0}), BatchTuner("a", CPU, 32), 32, 10)
    assert BatchTuner("a", CPU, 32).best_size == 8
    assert BatchTuner("b", CPU, 32).best_size is BatchTuner("a", CPU, 64).best_size is None
    (file,) = cached.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert BatchTuner("a", CPU, 32).best_size is None


def test_short_calls_decide_nothing_about_longer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of a few rows must not decide for all that come after it."""
    pace = BatchTuner("a", CPU, 128)
    calls(Timed(monkeypatch, {}), pace, 6, 30)
    assert pace.best_size is None


def test_micro_batches_that_do_not_fit_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Hungry(5)
    pace = BatchTuner("a", CPU, 32)
    for _ in range(12):
        assert MicroBatcher(model, pace)(*rows_of(13))[0].tolist() == list(range(13))
    fitted = MicroBatcher(model, FixedSize(8))
    assert fitted(*rows_of(13))[0].tolist() == list(range(13))
    assert max(model.calls[-4:]) == 4


def test_a_compiled_function_sees_one_number_of_rows_only() -> None:
    seen: list[int] = []

    def forward(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append(len(rows))
        return (rows * 2,)

    fitted = MicroBatcher(forward, FixedSize(4), padded=True)
    for count in (1, 4, 9):
        assert fitted(torch.arange(count))[0].tolist() == [2 * row for row in range(count)]
    assert set(seen) == {4}


@pytest.fixture
def fresh() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.mark.slow
def test_a_compiled_model_gives_what_it_gives_uncompiled(fresh: None, tmp_path: Path) -> None:
    described = spec("vit", classifier("vit-b", tmp_path / "vit", num_hidden_layers=1))
    plain, compiled = (
        on(described, tmp_path / "vit", InferenceOptions(CPU, torch.float32, FixedSize(4), compiled))
        for compiled in (False, True)
    )
    pixels, texts = noise(6)[:, :32, :32], [None] * 6
    ours, theirs = compiled(pixels, [*texts]), plain(pixels, [*texts])
    for a, b in zip(column(ours, schema.LABEL_PROBS), column(theirs, schema.LABEL_PROBS), strict=True):
        assert a == pytest.approx(b, abs=2e-6)
