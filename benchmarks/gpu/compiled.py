"""`compute.compile: true`: the cost of each tower's first call, its speed, and the speed of the actor."""

import time
from typing import Any

from benchmarks.gpu import clock
from benchmarks.gpu.actor import compare
from benchmarks.gpu.bench import Bench


def compiled(bench: Bench) -> None:
    annotator = bench.annotator(compile=True)
    labeller, embedder = bench.models(annotator)
    vit, align = bench.resident()
    calls: tuple[tuple[str, Any], ...] = (
        ("ViT", lambda: labeller._classify(vit)),
        ("ALIGN's image tower", lambda: embedder._images(align)),
    )
    for name, call in calls:
        since = time.perf_counter()
        call()
        clock.wait()
        first = f"first call {time.perf_counter() - since:.1f} s"
        bench.say(f"{name}, compiled", 1e3 * bench.batch / clock.ms(call), "images/s", first)
        clock.kernels(bench.out / "kernels.txt", f"{name}, compiled", call)
    compare(bench, annotator, "compiled")
