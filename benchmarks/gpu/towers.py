"""Speed of each tower, without synchronisation, on pixels that are already on the device."""

import time
from typing import Any

import torch

from benchmarks import corpus
from benchmarks.gpu import clock
from benchmarks.gpu.batches import padded
from benchmarks.gpu.bench import Bench

GFLOP = 382.1  # per image, ViT-L/16 at 384 pixels


def towers(bench: Bench) -> None:
    labeller, embedder = bench.models(bench.eager)
    vit, align = bench.resident()
    for name, call in (
        ("ViT", lambda: labeller._top_classes(vit)),
        ("ALIGN's image tower", lambda: embedder._image_columns(align)),
    ):
        took = clock.ms(call)
        flop = f"{bench.batch * GFLOP / took:.0f} TFLOP/s; " if name == "ViT" and bench.size == "full" else ""
        bench.say(f"{name}, eager", 1e3 * bench.batch / took, "images/s", f"{flop}host {clock.host_ms(call):.1f} ms")
        clock.kernels(bench.out / "kernels.txt", f"{name}, eager", call)


def text(bench: Bench) -> None:
    _, embedder = bench.models(bench.eager)
    texts = corpus.texts(bench.batch)
    since = time.perf_counter()
    prepared = embedder.prepare(texts)
    bench.say("texts: tokenise, group, pad", 1e3 * (time.perf_counter() - since), "ms of host")
    groups = f"{len(prepared.groups.tokens)} groups"

    def grouped() -> None:
        embedder._encode(prepared.groups)
        clock.wait()

    bench.say("texts in groups, from the host", clock.host_ms(grouped), "ms a batch", groups)
    ids, mask = padded(embedder, texts)
    bench.say(
        "texts in one padded call, eager", clock.ms(lambda: embedder._towers.encode_texts(ids, mask)), "ms a batch"
    )
    ours = embedder._towers.encode_texts(ids, mask)[0][: len(prepared.groups.inverse)]
    off = float((1 - (embedder._encode(prepared.groups)[0] * ours).sum(1)).max())
    bench.say("1 - cosine of the two, at most", f"{off:.1e}")
    call: Any = torch.compile(embedder._towers.encode_texts, dynamic=False)
    since = time.perf_counter()
    call(ids, mask)
    clock.wait()
    first = f"first call {time.perf_counter() - since:.1f} s"
    bench.say("the same, compiled", clock.ms(lambda: call(ids, mask)), "ms a batch", first)
    clock.kernels(bench.out / "kernels.txt", "texts, compiled", lambda: call(ids, mask))
