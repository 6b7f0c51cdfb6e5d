"""Limits of the machine: matrix products in ViT-L's shapes, attention, and copies on and to the device."""

import os
import platform
import subprocess
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn.functional import gelu, scaled_dot_product_attention

from benchmarks.gpu import clock
from benchmarks.gpu.bench import Bench

_COPIED = 88 << 20  # bytes: the pixels of 128 rows


def ceilings(bench: Bench) -> None:
    name = torch.cuda.get_device_name() if bench.cuda else "no GPU"
    software = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    bench.say("machine", f"{name}, {os.cpu_count()} cores; {software}")
    _host(bench)
    if bench.cuda:
        query = "--query-gpu=clocks.sm,clocks.mem,power.limit,pcie.link.gen.current,pcie.link.width.current"
        bench.say(
            "nvidia-smi", subprocess.check_output(["nvidia-smi", query, "--format=csv,noheader"], text=True).strip()
        )
        _copies(bench)
        _products(bench)
        _attention(bench)


def _host(bench: Bench) -> None:
    source = np.random.default_rng(0).integers(0, 255, _COPIED, np.uint8)
    kept = np.zeros_like(source)
    bench.say("host: a batch's pixels into kept memory", _rate(lambda: np.copyto(kept, source)), "GB/s")
    bench.say("host: into fresh memory", _rate(source.copy), "GB/s")


def _rate(call: Callable[[], Any], turns: int = 5) -> float:
    call()
    since = time.perf_counter()
    for _ in range(turns):
        call()
    return _COPIED * turns / (time.perf_counter() - since) / 1e9


def _copies(bench: Bench) -> None:
    a = torch.randint(0, 255, (4 << 30,), dtype=torch.uint8, device=bench.device)
    b = torch.empty_like(a)
    bench.say("device: copy, read and written", 2 * a.numel() / clock.ms(lambda: b.copy_(a)) / 1e9, "TB/s")
    pinned, pageable = torch.zeros(_COPIED, dtype=torch.uint8).pin_memory(), torch.zeros(_COPIED, dtype=torch.uint8)
    for name, here in (("pinned", pinned), ("pageable", pageable)):
        took = clock.ms(lambda here=here: here.to(bench.device, non_blocking=True))  # type: ignore[misc]
        bench.say(f"host to device, {name}", _COPIED / took / 1e6, "GB/s")


def _products(bench: Bench) -> None:
    rows = bench.batch * 577
    for m, k, n in ((8192, 8192, 8192), (rows, 1024, 1024), (rows, 1024, 3072), (rows, 1024, 4096), (rows, 4096, 1024)):
        sizes = ((m, k), (k, n), (n,))
        x, w, bias = (torch.randn(size, device=bench.device, dtype=torch.bfloat16) for size in sizes)
        half = [tensor.half() for tensor in (bias, x, w)]
        calls: dict[str, Callable[[], Any]] = {
            "bf16": lambda bias=bias, x=x, w=w: torch.addmm(bias, x, w),  # type: ignore[misc]
            "fp16": lambda half=half: torch.addmm(*half),  # type: ignore[misc]
        }
        if n == 4096:
            calls |= {
                "bf16, gelu after it": lambda bias=bias, x=x, w=w: gelu(torch.addmm(bias, x, w)),  # type: ignore[misc]
                "bf16, tanh's gelu in its epilogue": lambda bias=bias, x=x, w=w: torch._addmm_activation(  # type: ignore[misc]
                    bias, x, w, use_gelu=True
                ),
            }
        for name, call in calls.items():
            bench.say(f"{m} x {k} x {n}, {name}", 2 * m * k * n / clock.ms(call) / 1e9, "TFLOP/s")


def _attention(bench: Bench) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    shape = (bench.batch, 577, 16, 64)
    q, k, v = (torch.randn(shape, device=bench.device, dtype=torch.bfloat16).transpose(1, 2) for _ in range(3))
    for name in ("as torch chooses", "FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):
        with sdpa_kernel(getattr(SDPBackend, name)) if name.isupper() else nullcontext():
            took = clock.ms(lambda: scaled_dot_product_attention(q, k, v))
        bench.say(f"attention, {name}", 4 * bench.batch * 16 * 577 * 577 * 64 / took / 1e9, "TFLOP/s", f"{took:.2f} ms")
