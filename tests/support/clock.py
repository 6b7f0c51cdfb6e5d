"""An event loop whose clock moves by itself: a sleep ends as soon as nothing else is left to do.

Deadlines and sleeps keep their order, and none of them depends on how busy the machine is.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class _Waiting(selectors.DefaultSelector):
    """Reports how long the loop would sleep, and does not sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.slept = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("nothing will ever happen in this loop")
        self.slept += max(0.0, timeout)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._waiting = _Waiting()
        super().__init__(self._waiting)

    def time(self) -> float:
        return self._waiting.slept


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """As `asyncio.run`, in no time. For coroutines that wait for timers and for each other, not for sockets."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)
