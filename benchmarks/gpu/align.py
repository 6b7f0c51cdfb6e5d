"""The repeated blocks of EfficientNet: eager, compiled, and with 1x1 convolutions as matrix products.

The floor is the time to copy what the depthwise convolution reads and writes.
"""

from collections import Counter
from typing import Any

import torch

from benchmarks.gpu import clock
from benchmarks.gpu.bench import Bench

_REPEATED = 3
_COPY = 3.6e9  # bytes per millisecond: 85 % of an H200's memory bandwidth


def align(bench: Bench) -> None:
    _, embedder = bench.models(bench.eager)
    blocks = [*embedder._towers._model.vision_model.encoder.blocks]
    totals = Counter[str]()
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = 64  # each shape compiles once
    for key, which in _alike(bench, embedder, blocks).items():
        if len(which) < (_REPEATED if bench.cuda else 1):
            continue
        found = _timed(blocks[which[0]], key[0], embedder)
        told = ", ".join(f"{name} {took:.3f}" for name, took in found.items())
        bench.say(f"{len(which)} blocks of {key[0]}, ms each", told)
        totals.update({name: len(which) * took for name, took in found.items()})
    told = ", ".join(f"{name} {took:.1f}" for name, took in totals.items())
    bench.say("all of them, ms a batch", told)


def _alike(bench: Bench, embedder: Any, blocks: list[Any]) -> dict[tuple[Any, ...], list[int]]:
    """Return the indices of blocks with equal shapes and options."""
    seen: dict[tuple[Any, ...], list[int]] = {}

    def noted(index: int) -> Any:
        def hook(block: Any, given: Any, out: torch.Tensor) -> None:
            kernel = block.depthwise_conv.depthwise_conv.kernel_size
            seen.setdefault((tuple(given[0].shape), tuple(out.shape), block.expand_ratio, kernel), []).append(index)

        return hook

    hooks = [block.register_forward_hook(noted(i)) for i, block in enumerate(blocks)]
    embedder._image_columns(bench.resident()[1])
    for hook in hooks:
        hook.remove()
    return seen


def _timed(block: Any, shape: tuple[int, ...], embedder: Any) -> dict[str, float]:
    dtype, device = embedder._towers._model.dtype, embedder._device
    x = torch.randn(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    found = {"eager": clock.ms(lambda: block(x))}
    ways: dict[str, Any] = {"compiled": {}, "1x1 as products": {"conv_1x1_as_mm": True}}
    for name, options in ways.items():
        call = torch.compile(block, dynamic=False, options=options)
        found[name] = clock.ms(lambda call=call: call(x))  # type: ignore[misc]
    depthwise = block.depthwise_conv.depthwise_conv
    wide = (shape[0], depthwise.in_channels, *shape[2:])
    y = torch.randn(wide, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    found["its depthwise convolution"] = clock.ms(lambda: depthwise(y))
    found["the floor of that"] = 2 * y.numel() * y.element_size() / _COPY
    return found
