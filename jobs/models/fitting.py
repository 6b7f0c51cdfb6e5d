"""A model's call that is given no more rows at once than have fitted into the device's memory so far."""

import sys
from collections.abc import Callable

import torch


class Fitting:
    """Wraps a function from tensors to tensors, all of n rows. The most that fitted is remembered."""

    def __init__(self, forward: Callable[..., tuple[torch.Tensor, ...]]) -> None:
        self._forward = forward
        self._most = sys.maxsize

    def __call__(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Raises torch.OutOfMemoryError when not even one row fits."""
        parts: list[tuple[torch.Tensor, ...]] = []
        done, count = 0, len(given[0])
        while done < count or not parts:
            rows = slice(done, min(done + self._most, count))
            results = self._try([tensor[rows] for tensor in given])
            if results is None:
                self._most = (rows.stop - rows.start) // 2
                torch.cuda.empty_cache()  # only now: while the error was handled, its frames held their tensors
                continue
            parts.append(results)
            done = rows.stop
        return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))

    def _try(self, given: list[torch.Tensor]) -> tuple[torch.Tensor, ...] | None:
        """None when there is no memory for so many rows."""
        try:
            return self._forward(*given)
        except torch.OutOfMemoryError:
            if len(given[0]) <= 1:
                raise
            return None
