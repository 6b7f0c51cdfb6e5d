"""Memory that torch keeps after many batches, and the result of a batch that does not fit."""

from collections import Counter

import torch

from benchmarks.gpu.batches import block, fed
from benchmarks.gpu.bench import Bench
from jobs import schema

_LARGE = 1024  # rows
_SHORT = 5  # GiB free beside the models: enough for the pixels, too little for the batch


def memory_grows(bench: Bench) -> None:
    if not bench.cuda:
        return
    annotator, table = bench.eager, block(bench.specs, bench.batch)
    for turns in (4, 60):
        fed(annotator, table, turns, 2)
        streams = Counter[int]()
        for segment in torch.cuda.memory_snapshot():  # type: ignore[no-untyped-call]
            streams[segment["stream"]] += segment["total_size"]
        reserved = torch.cuda.memory_reserved() / 2**30
        bench.say(f"reserved after {turns} more batches", reserved, "GiB", f"in {len(streams)} streams")


def memory_short(bench: Bench) -> None:
    if not bench.cuda:
        return
    table = block(bench.specs, _LARGE)
    annotator = bench.annotator(batch_size=_LARGE)
    bench.free()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + (_SHORT << 30)) / total)
    try:
        done = annotator(table)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    rejects = done.num_rows - done.column(schema.REASON).null_count
    labeller, embedder = bench.models(annotator)
    most = f"{labeller._classify._max_rows} and {embedder._images._max_rows} at most at once"
    bench.say(f"{_SHORT} GiB beside the models", f"{done.num_rows} of {_LARGE} rows, {rejects} rejects, {most}")
