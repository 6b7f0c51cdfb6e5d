"""Variants of ViT's layers: the speed of each, and the distance of its logits from float32."""

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.gpu import clock
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.plain_vit import PlainVit, Ways
from benchmarks.gpu.towers import GFLOP
from jobs.models import loading
from jobs.models.weights import local_folder

_COMPARED = 16  # images
_ALL = Ways(one_qkv=True, epilogue=True, last=True)
_WAYS = {
    "a layer compiled": Ways(),
    "and one product for queries, keys and values": Ways(one_qkv=True),
    "and GELU in the product's epilogue": Ways(one_qkv=True, epilogue=True),
    "and the class token alone in the last layer": _ALL,
    "all of it, eager": Ways(compiled=False, one_qkv=True, epilogue=True, last=True),
    "fp8, one QKV, class token alone": Ways(one_qkv=True, last=True, fp8=True),
}


def vit(bench: Bench) -> None:
    labeller, _ = bench.models(bench.eager)
    spec = next(spec for spec in bench.specs if spec.kind == "vit")
    auto = loading.transformers().AutoModelForImageClassification
    exact = loading.load_model(auto, local_folder(spec.kind, spec.weights), "vit").to(bench.device)
    models = {torch.bfloat16: copy.deepcopy(exact).bfloat16(), torch.float16: copy.deepcopy(exact).half()}
    pixels = bench.resident()[0]
    torch.backends.cudnn.allow_tf32 = False
    wanted = exact(pixel_values=_scaled(labeller, pixels[:_COMPARED], torch.float32)).logits
    torch.backends.cudnn.allow_tf32 = True
    del exact
    for dtype, model in models.items():
        values, name = _scaled(labeller, pixels, dtype), str(dtype).removeprefix("torch.")
        _show(bench, f"as transformers has it, eager, {name}", partial(_logits, model), values, wanted)
        for way, ways in _WAYS.items():
            if dtype == torch.bfloat16 or ways == _ALL:
                torch.compiler.reset()
                try:
                    _show(bench, f"{way}, {name}", PlainVit(model, ways), values, wanted)
                except (
                    RuntimeError,
                    torch._dynamo.exc.TorchDynamoException,
                ) as exc:  # fp8 with a scale per row needs Hopper
                    bench.say(f"ViT, {way}, {name}", str(exc).splitlines()[0])


def _logits(model: Any, values: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(pixel_values=values).logits
    return logits


def _scaled(labeller: Any, pixels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    scale = copy.copy(labeller._scale)
    scale._dtype = dtype
    values: torch.Tensor = scale(pixels)
    return values


def _show(
    bench: Bench, name: str, call: Callable[[Any], torch.Tensor], values: torch.Tensor, wanted: torch.Tensor
) -> None:
    since = time.perf_counter()
    got = call(values)[:_COMPARED].float()
    clock.wait()
    first = time.perf_counter() - since
    off = float((got - wanted).norm() / wanted.norm())
    took = clock.ms(lambda: call(values))
    flop = f"{len(values) * GFLOP / took:.0f} TFLOP/s of the whole model; " if bench.size == "full" else ""
    note = f"{flop}logits off by {off:.1e}; first call {first:.1f} s"
    bench.say(f"ViT, {name}", 1e3 * len(values) / took, "images/s", note)
    clock.kernels(bench.out / "kernels.txt", f"ViT, {name}", lambda: call(values))
