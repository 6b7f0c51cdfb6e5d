"""A model's call in parts: as many rows at once as are fastest on this device, and never more than fit into it."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile

import torch

from jobs.errors import ClusterError
from jobs.models import cache

_SIZES = tuple(4 << step for step in range(10))  # rows
_TRIALS = 2  # calls with each size, of which the faster counts: something else may have run beside one
_WORSE = 2  # sizes in a row that are slower than the best so far: larger ones are not tried


class BatchTuner:
    """How many rows of a call make a part, at most `most`. Found by timing the run's own calls, then kept, and
    remembered on this machine under `key`: on a CPU, eight rows at once may be twice as fast as 32, whose values no
    cache can hold."""

    def __init__(self, key: str, device: torch.device, most: int) -> None:
        self._key, self._device = f"{key}, at most {most} rows, torch {torch.__version__}", device
        self._sizes = [size for size in _SIZES if size <= most] or [most]
        self._lock = threading.Lock()
        self._seconds: dict[int, list[float]] = {}  # of a row, by size
        self.best = self._remembered()

    @contextmanager
    def micro_batch(self, count: int) -> Iterator[int]:
        """The size of the parts of a call of so many rows, which is timed while the best is not known."""
        size = self.best or self._next()
        if self.best or size > count:
            yield min(size, count)
            return
        since = self._clock()
        yield size
        self._learn(size, (self._clock() - since) / count)

    def _next(self) -> int:
        with self._lock:
            return next((size for size in self._sizes if not self._known(size)), self._sizes[-1])

    def _known(self, size: int) -> bool:
        return len(self._seconds.get(size, ())) >= _TRIALS

    def _learn(self, size: int, seconds: float) -> None:
        with self._lock:
            self._seconds.setdefault(size, []).append(seconds)
            tried = [*takewhile(self._known, self._sizes)]
            if self.best or not tried:
                return
            best = min(tried, key=lambda size: min(self._seconds[size]))
            if len(tried) - 1 - tried.index(best) >= _WORSE or len(tried) == len(self._sizes):
                self.best = best
                cache.remember("parts", self._key, json.dumps(best).encode())

    def _remembered(self) -> int | None:
        held = cache.recall("parts", self._key)
        size = json.loads(held) if held else None
        return size if size in self._sizes else None

    def _clock(self) -> float:
        """Seconds. On a CPU those of this thread at work: decoders and other calls take the cores meanwhile."""
        if self._device.type == "cpu":
            return time.thread_time()
        torch.cuda.synchronize(self._device)
        return time.perf_counter()


class FixedSize:
    """So many rows; without a number all at once."""

    def __init__(self, rows: int = sys.maxsize) -> None:
        self.best = rows

    @contextmanager
    def micro_batch(self, count: int) -> Iterator[int]:  # noqa: ARG002
        yield self.best


class MicroBatcher:
    """Wraps a function from tensors to tensors, all of n rows. The most that fitted into memory is remembered.

    With `padded`, it is called with whole parts only, the last one filled up: a compiled function is compiled for one
    number of rows.
    """

    def __init__(
        self,
        forward: Callable[..., tuple[torch.Tensor, ...]],
        tuner: BatchTuner | FixedSize,
        *,
        padded: bool = False,
    ) -> None:
        self._forward, self._tuner, self._padded = forward, tuner, padded
        self._most = sys.maxsize

    def __call__(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Raises torch.OutOfMemoryError when not even one row fits."""
        with self._tuner.micro_batch(len(given[0])) as size:
            return self._in_micro_batches(given, size)

    def _in_micro_batches(self, given: tuple[torch.Tensor, ...], size: int) -> tuple[torch.Tensor, ...]:
        parts: list[tuple[torch.Tensor, ...]] = []
        done, count = 0, len(given[0])
        while done < count or not parts:
            size = min(size, self._most)
            rows = slice(done, min(done + size, count))
            results = self._try([self._filled(tensor[rows], size) for tensor in given])
            if results is None:
                self._most = (size if self._padded else rows.stop - rows.start) // 2
                torch.cuda.empty_cache()  # only now: while the error was handled, its frames held their tensors
                continue
            parts.append(tuple(tensor[: rows.stop - rows.start] for tensor in results))
            done = rows.stop
        return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))

    def _filled(self, part: torch.Tensor, size: int) -> torch.Tensor:
        missing = size - len(part) if self._padded else 0
        return torch.cat([part, part[:1].expand(missing, *part.shape[1:])]) if missing and len(part) else part

    def _try(self, given: list[torch.Tensor]) -> tuple[torch.Tensor, ...] | None:
        """None when there is no memory for so many rows."""
        try:
            return self._forward(*given)
        except torch.OutOfMemoryError:
            if len(given[0]) <= 1:
                raise
            return None


@dataclass(frozen=True)
class Placement:
    """The device, dtype and micro-batch size of one model, and whether its image part is compiled."""

    device: torch.device
    dtype: torch.dtype
    tuner: BatchTuner | FixedSize
    compiled: bool = False

    def batched(self, forward: Callable[..., tuple[torch.Tensor, ...]]) -> MicroBatcher:
        """The model's function of n images, as it is to be called here."""
        if not self.compiled:
            return MicroBatcher(forward, self.tuner)
        return MicroBatcher(_compiled(forward), self.tuner, padded=True)


def _compiled(forward: Callable[..., tuple[torch.Tensor, ...]]) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Its kernels are made at the first call. Raises ClusterError where they cannot be."""
    from torch._inductor.exc import InductorError

    compiled = torch.compile(forward, dynamic=False)

    def call(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        try:
            return compiled(*given)
        except InductorError as exc:
            hint = "put a C compiler on every node that annotates, or set compute.compile: false"
            raise ClusterError(f"compute.compile: {str(exc).splitlines()[0]}", hint) from exc

    return call
