"""Split a model's call into micro-batches: as many rows as are fastest on this device, and fit into its memory."""

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

_SIZES = tuple(4 << step for step in range(10))  # rows: 4 to 2048
_TRIALS = 2  # timed calls per size; the faster one counts, because another process may have slowed one of them
_MAX_SLOWER = 2  # stop after this many larger sizes in a row are slower than the best
_CACHE_KIND = "micro_batch_sizes"


class BatchTuner:
    """Find the fastest micro-batch size, at most `max_size` rows, by timing the run's own calls.

    The result is cached on this machine under `key`. It matters: on a CPU, 8 rows at once may be twice as fast as 32,
    because the activations of 32 rows do not fit into the CPU's caches.
    """

    def __init__(self, key: str, device: torch.device, max_size: int) -> None:
        self._key, self._device = f"{key}, at most {max_size} rows, torch {torch.__version__}", device
        self._sizes = [size for size in _SIZES if size <= max_size] or [max_size]
        self._lock = threading.Lock()
        self._seconds: dict[int, list[float]] = {}  # per row, by size
        self.best_size = self._load_cached()

    @contextmanager
    def micro_batch(self, count: int) -> Iterator[int]:
        """Yield the micro-batch size for a call of `count` rows; until the fastest size is known, time the call."""
        size = self.best_size or self._next_size()
        if self.best_size or size > count:
            yield min(size, count)
            return
        since = self._clock()
        yield size
        self._record(size, (self._clock() - since) / count)

    def _next_size(self) -> int:
        with self._lock:
            return next((size for size in self._sizes if not self._is_timed(size)), self._sizes[-1])

    def _is_timed(self, size: int) -> bool:
        return len(self._seconds.get(size, ())) >= _TRIALS

    def _record(self, size: int, seconds: float) -> None:
        with self._lock:
            self._seconds.setdefault(size, []).append(seconds)
            timed = [*takewhile(self._is_timed, self._sizes)]
            if self.best_size or not timed:
                return
            best = min(timed, key=lambda size: min(self._seconds[size]))
            if len(timed) - 1 - timed.index(best) >= _MAX_SLOWER or len(timed) == len(self._sizes):
                self.best_size = best
                cache.put(_CACHE_KIND, self._key, json.dumps(best).encode())

    def _load_cached(self) -> int | None:
        data = cache.get(_CACHE_KIND, self._key)
        size = json.loads(data) if data else None
        return size if size in self._sizes else None

    def _clock(self) -> float:
        """Seconds. On a CPU, this thread's CPU time: decoders and other calls share the cores."""
        if self._device.type == "cpu":
            return time.thread_time()
        torch.cuda.synchronize(self._device)
        return time.perf_counter()


class FixedSize:
    """The same interface for a fixed micro-batch size; by default a whole call at once."""

    def __init__(self, rows: int = sys.maxsize) -> None:
        self.best_size = rows

    @contextmanager
    def micro_batch(self, count: int) -> Iterator[int]:  # noqa: ARG002
        yield self.best_size


class MicroBatcher:
    """Call a function of tensors [n, ...] in micro-batches. Halve the size, for good, when memory runs out.

    With `padded`, the last micro-batch is filled up to the full size, because a compiled function is compiled for one
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
        self._max_rows = sys.maxsize

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tensors [n, ...] to tensors [n, ...]. Raises torch.OutOfMemoryError if one row does not fit."""
        with self._tuner.micro_batch(len(inputs[0])) as size:
            return self._in_micro_batches(inputs, size)

    def _in_micro_batches(self, inputs: tuple[torch.Tensor, ...], size: int) -> tuple[torch.Tensor, ...]:
        outputs: list[tuple[torch.Tensor, ...]] = []
        done, count = 0, len(inputs[0])
        while done < count or not outputs:
            size = min(size, self._max_rows)
            rows = slice(done, min(done + size, count))
            output = self._try([self._pad(tensor[rows], size) for tensor in inputs])
            if output is None:
                self._max_rows = (size if self._padded else rows.stop - rows.start) // 2
                torch.cuda.empty_cache()  # not inside the except block: there the traceback keeps the tensors alive
                continue
            outputs.append(tuple(tensor[: rows.stop - rows.start] for tensor in output))
            done = rows.stop
        return outputs[0] if len(outputs) == 1 else tuple(map(torch.cat, zip(*outputs, strict=True)))

    def _pad(self, rows: torch.Tensor, size: int) -> torch.Tensor:
        missing = size - len(rows) if self._padded else 0
        return torch.cat([rows, rows[:1].expand(missing, *rows.shape[1:])]) if missing and len(rows) else rows

    def _try(self, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...] | None:
        """Call the function; None if memory runs out for more than one row."""
        try:
            return self._forward(*inputs)
        except torch.OutOfMemoryError:
            if len(inputs[0]) <= 1:
                raise
            return None


@dataclass(frozen=True)
class InferenceOptions:
    """How one model runs: its device, dtype and micro-batch size, and whether its image function is compiled."""

    device: torch.device
    dtype: torch.dtype
    tuner: BatchTuner | FixedSize
    compile: bool = False

    def micro_batched(self, forward: Callable[..., tuple[torch.Tensor, ...]]) -> MicroBatcher:
        """Wrap the model's function of n images in micro-batches, compiled if `compile` is set."""
        if not self.compile:
            return MicroBatcher(forward, self.tuner)
        return MicroBatcher(_compiled(forward), self.tuner, padded=True)


def _compiled(forward: Callable[..., tuple[torch.Tensor, ...]]) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Apply torch.compile; the first call compiles. That call raises ClusterError if compilation fails."""
    from torch._inductor.exc import InductorError

    compiled = torch.compile(forward, dynamic=False)

    def call(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        try:
            return compiled(*inputs)
        except InductorError as exc:
            hint = "install a C compiler on every node that annotates, or set compute.compile: false"
            raise ClusterError(f"compute.compile: {str(exc).splitlines()[0]}", hint) from exc

    return call
