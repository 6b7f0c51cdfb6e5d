"""Speed of decoding and painting both canvases on 1, half and all cores."""

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench

_SECONDS = 4.0


def decoding(bench: Bench) -> None:
    context = multiprocessing.get_context("spawn")
    cores = os.cpu_count() or 1
    for count in sorted({1, max(1, cores // 2), cores}):
        results = context.Queue()
        ready = context.Barrier(count)
        workers = [context.Process(target=_decode, args=(bench.photos, ready, results)) for _ in range(count)]
        for worker in workers:
            worker.start()
        rates = [results.get(timeout=120) for _ in workers]
        for worker in workers:
            worker.join()
        bench.say(
            f"decode and both canvases, {count} processes", sum(rates), "rows/s", f"{sum(rates) / count:.0f} each"
        )


def _decode(photos: Path | None, ready: Any, results: Any) -> None:
    from benchmarks import corpus
    from benchmarks.decode import ALIGN, VIT
    from jobs.config import DecodeConfig
    from jobs.images.render import render

    pictures, done = corpus.pictures(64, photos), 0
    render(pictures[0], DecodeConfig(), [VIT, ALIGN], fast=True)
    ready.wait()
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        render(pictures[done % len(pictures)], DecodeConfig(), [VIT, ALIGN], fast=True)
        done += 1
    results.put(done / _SECONDS)
