"""The actor, the same model calls without any synchronisation, and a prototype of an actor without synchronisation."""

import queue
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks import corpus
from benchmarks.gpu import clock
from benchmarks.gpu.batches import block, fed, padded
from benchmarks.gpu.bench import Bench
from jobs import schema
from jobs.models.annotator import Annotator, Stopwatch
from jobs.models.dual import DualEncoderOutputs

_COLUMNS = (schema.IMAGE_EMBEDDING, schema.TEXT_EMBEDDING, schema.SIMILARITY)
_SLOTS = 3


def actor(bench: Bench) -> None:
    annotator, table = bench.eager, block(bench.specs, bench.batch)
    annotator(table)
    if bench.cuda:
        bench.say("waits for the device in one call, as torch counts", float(_waits(lambda: annotator(table))))
    laps = Stopwatch()
    annotator(table, laps)
    told = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in laps.seconds.items())
    bench.say("one call alone, ms", told)
    compare(bench, annotator, "eager")


def compare(bench: Bench, annotator: Annotator, tag: str) -> None:
    table = block(bench.specs, bench.batch)
    bare = bench.rates[f"bare {tag}"] = 1e3 * bench.batch / clock.ms(bare_call(bench, annotator))
    bench.say(f"bare, {tag}: both models and the texts", bare, "rows/s", "resident, nothing awaited")
    for name, call in (("actor", annotator), ("prototype", Ahead(bench, annotator))):
        for threads in (1, 2):
            rate = max(fed(call, table, bench.turns, threads) for _ in range(2))
            bench.say(f"{name}, {tag}, {threads} threads", rate, "rows/s", f"{rate / bare:.3f} of bare")
    if bench.cuda:
        share, gaps = clock.busy(lambda: fed(annotator, table, 6, 2))
        bench.say(
            "kernels run, actor, 2 threads", share, "", f"{len(gaps)} gaps over 0.1 ms, {sum(gaps):.0f} ms in all"
        )


def bare_call(bench: Bench, annotator: Annotator) -> Callable[[], Any]:
    labeller, embedder = bench.models(annotator)
    vit, align = bench.resident()
    ids, mask = padded(embedder, corpus.texts(bench.batch))

    def call() -> None:
        labeller._classify(vit)
        embedder._images(align)
        embedder._towers.encode_texts(ids, mask)

    return call


def _waits(call: Callable[[], Any]) -> int:
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    torch.cuda.set_sync_debug_mode("default")
    return len(caught)


class Ahead:
    """A prototype: one copy into reused pinned memory, one call for all texts, a lock only while a batch is issued, and
    results awaited through an event."""

    def __init__(self, bench: Bench, annotator: Annotator) -> None:
        self._bench, self._issuing = bench, threading.Lock()
        self._labeller, self._embedder = bench.models(annotator)
        self._slots: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(_SLOTS):
            shapes = [(bench.batch, *spec.canvas.size, 3) for spec in bench.specs]
            held = [torch.empty(shape, dtype=torch.uint8, pin_memory=bench.cuda) for shape in shapes]
            there = [torch.empty_like(each, device=bench.device) for each in held]
            stream = torch.cuda.Stream() if bench.cuda else None  # type: ignore[no-untyped-call]
            self._slots.put((held, there, stream))

    @torch.inference_mode()
    def __call__(self, table: pa.Table) -> Any:
        held, there, stream = slot = self._slots.get()
        try:
            texts = table.column(schema.TEXT).to_pylist()
            for spec, each in zip(self._bench.specs, held, strict=True):
                column = table.column(spec.canvas.name).combine_chunks()
                array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
                np.copyto(each.numpy(), array.to_numpy_ndarray())
            with self._bench.on(stream):
                for to, each in zip(there, held, strict=True):
                    to.copy_(each, non_blocking=True)
                ids, mask = padded(self._embedder, texts, pin=self._bench.cuda)
                chosen = self._chosen(texts)
                ready = self._event()
            with self._issuing:
                if ready:
                    torch.cuda.current_stream().wait_event(ready)
                host = self._issued(there, ids, mask, chosen)
                done = self._event()
            if done:
                done.synchronize()
            return self._results(host, texts)
        finally:
            self._slots.put(slot)

    def _chosen(self, texts: list[str]) -> torch.Tensor:
        """Return the index of each row's text among the encoded ones, or -1 for a row without text."""
        place = {text: i for i, text in enumerate(dict.fromkeys(text for text in texts if text and text.strip()))}
        chosen = torch.tensor([place.get(text, -1) for text in texts])
        return (chosen.pin_memory() if self._bench.cuda else chosen).to(self._bench.device, non_blocking=True)

    def _event(self) -> Any:
        if not self._bench.cuda:
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _issued(
        self, there: list[torch.Tensor], ids: torch.Tensor, mask: torch.Tensor, chosen: torch.Tensor
    ) -> list[torch.Tensor]:
        top = self._labeller._classify(there[0])
        images = self._embedder._images(there[1])[0]
        encoded = self._embedder._towers.encode_texts(ids, mask)[0]
        text = torch.where((chosen >= 0)[:, None], encoded[chosen.clamp_min(0)], 0)
        outs = [*top, images, text, (images * text).sum(1)]
        hosts = [torch.empty(out.shape, dtype=out.dtype, pin_memory=self._bench.cuda) for out in outs]
        return [host.copy_(out, non_blocking=True) for host, out in zip(hosts, outs, strict=True)]

    def _results(self, host: list[torch.Tensor], texts: list[str]) -> Any:
        absent = np.array([not (text and text.strip()) for text in texts])
        columns = dict(zip(_COLUMNS, host[3:], strict=True))
        return self._labeller.to_results(tuple(host[:3])), self._embedder.to_results(
            DualEncoderOutputs(columns, absent)
        )
