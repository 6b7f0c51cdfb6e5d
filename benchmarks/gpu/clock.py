"""Time calls on a device, and list its kernels."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

_SHOWN = 30  # kernels


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Measure the seconds of the context, from idle device to idle device."""
    wait()
    since = time.perf_counter()
    took: list[float] = []
    yield lambda: took[0]
    wait()
    took.append(time.perf_counter() - since)


def ms(call: Callable[[], Any], turns: int = 12) -> float:
    """Return the median milliseconds of a call, from CUDA events: the host may run ahead."""
    for _ in range(3):
        call()
    wait()
    if not torch.cuda.is_available():
        with timed() as took:
            for _ in range(turns):
                call()
        return 1e3 * took() / turns
    marks: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(turns + 1)]  # type: ignore[no-untyped-call]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    wait()
    return float(statistics.median(a.elapsed_time(b) for a, b in pairwise(marks)))


def host_ms(call: Callable[[], Any], turns: int = 4) -> float:
    """Return the milliseconds until a call returns on an idle device: the host's time to issue it."""
    found = []
    for _ in range(turns):
        wait()
        since = time.perf_counter()
        call()
        found.append(time.perf_counter() - since)
    wait()
    return 1e3 * statistics.median(found)


def kernels(path: Path, tag: str, call: Callable[[], Any]) -> None:
    """Append the kernels of one call, by device time, to a file."""
    if not torch.cuda.is_available():
        return
    from torch.profiler import ProfilerActivity, profile

    call()
    wait()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        call()
        wait()
    events = [(e.self_device_time_total, e.count, e.key) for e in seen.key_averages() if e.self_device_time_total]
    total = sum(took for took, _, _ in events)
    with path.open("a") as file:
        file.write(f"== {tag}: {total / 1e3:.2f} ms of kernels, {sum(count for _, count, _ in events)} launches\n")
        for took, count, key in sorted(events, reverse=True)[:_SHOWN]:
            file.write(f"{took / total:7.2%} {took / 1e3:8.3f} ms {count:5d} x {key[:110]}\n")


def busy(call: Callable[[], Any]) -> tuple[float, list[float]]:
    """Return the share of the time in which kernels run, and the gaps over 0.1 ms, in ms. Skip the first quarter."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        call()
        wait()
    spans = sorted(
        (e.time_range.start, e.time_range.end)
        for e in (seen.events() or [])
        if e.device_type.name == "CUDA" and not e.name.startswith(("Memcpy", "Memset"))
    )
    spans = spans[len(spans) // 4 :]
    at, worked, gaps = spans[0][0], 0.0, list[float]()
    for start, end in spans:
        if start > at + 100:
            gaps.append((start - at) / 1e3)
        worked += max(0.0, end - max(start, at))
        at = max(at, end)
    return worked / (at - spans[0][0]), gaps
