"""A plain reimplementation of transformers' ViT with the same weights, to time variants of its layers.

One layer is compiled for all: that takes seconds, compiling the whole model half a minute.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

_FP8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Ways:
    """Options. `one_qkv`: one product for queries, keys and values. `epilogue`: tanh-GELU fused into the product before
    it. `last`: only the class token in the last layer: its other tokens are unused. `fp8`: one scale per row."""

    compiled: bool = True
    one_qkv: bool = False
    epilogue: bool = False
    last: bool = False
    fp8: bool = False


@torch.library.custom_op("coyo_bench::linear_gelu", mutates_args=())
def linear_gelu(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch._addmm_activation(b, x, w.t(), use_gelu=True)


@linear_gelu.register_fake
def _(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    return x.new_empty(x.shape[0], w.shape[0])


class PlainVit:
    """Maps pixel values to the logits of a ViTForImageClassification."""

    def __init__(self, model: Any, ways: Ways) -> None:
        self._model, self._how = model, (model.config.num_attention_heads, ways)
        layers = [*model.vit.layers]
        norms = [*(each.layernorm_before for each in layers[1:]), model.vit.layernorm]
        self._layers = [_taken(each, norm, ways) for each, norm in zip(layers, norms, strict=True)]
        if ways.last:
            self._layers[-1] = _taken(layers[-1], norms[-1], Ways(one_qkv=True))
        compiled: Any = (lambda f: torch.compile(f, dynamic=False)) if ways.compiled else (lambda f: f)
        self._begin, self._layer = compiled(self._embedded), compiled(_layer)
        self._last = compiled(_last_layer) if ways.last else self._layer

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        x, h = self._begin(values)
        for layer in self._layers[:-1]:
            x, h = self._layer(x, h, layer, *self._how)
        x, h = self._last(x, h, self._layers[-1], *self._how)
        logits: torch.Tensor = self._model.classifier(h[:, 0])
        return logits

    def _embedded(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self._model.vit.embeddings(values)
        return x, self._model.vit.layers[0].layernorm_before(x)


def _taken(layer: Any, after: Any, ways: Ways) -> dict[str, Any]:
    """Return the weights of a layer; `after` is the norm that follows it."""

    def held(w: torch.Tensor, b: torch.Tensor) -> tuple[Any, torch.Tensor]:
        if not ways.fp8:
            return w, b
        rounded, scale = _quantised(w)
        return (rounded, scale.t().contiguous()), b

    attention, mlp = layer.attention, layer.mlp
    parts = [(each.weight, each.bias) for each in (attention.q_proj, attention.k_proj, attention.v_proj)]
    together = [(torch.cat([w for w, _ in parts]), torch.cat([b for _, b in parts]))]
    plain = {"o": attention.o_proj, "fc1": mlp.fc1, "fc2": mlp.fc2}
    norms = {"ln2": layer.layernorm_after, "next": after}
    return {
        "qkv": [held(*part) for part in (together if ways.one_qkv else parts)],
        **{name: held(each.weight, each.bias) for name, each in plain.items()},
        **{name: (each.weight, each.bias, each.eps) for name, each in norms.items()},
    }


def _layer(
    x: torch.Tensor, h: torch.Tensor, p: dict[str, Any], heads: int, ways: Ways
) -> tuple[torch.Tensor, torch.Tensor]:
    """Map the residual stream and its norm to those of the next layer, each [n, tokens, width]."""
    n, s, d = x.shape
    flat = h.reshape(n * s, d)
    if len(p["qkv"]) == 1:
        q, k, v = _linear(flat, *p["qkv"][0]).view(n, s, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    else:
        q, k, v = (_linear(flat, *each).view(n, s, heads, d // heads).transpose(1, 2) for each in p["qkv"])
    a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n * s, d)
    return _after_attention(x, a, p, ways)


def _last_layer(
    x: torch.Tensor, h: torch.Tensor, p: dict[str, Any], heads: int, ways: Ways
) -> tuple[torch.Tensor, torch.Tensor]:
    n, s, d = x.shape
    ((w, b),) = p["qkv"]
    q = F.linear(h[:, 0], w[:d], b[:d]).view(n, 1, heads, d // heads).transpose(1, 2)
    k, v = F.linear(h.reshape(n * s, d), w[d:], b[d:]).view(n, s, 2, heads, d // heads).permute(2, 0, 3, 1, 4)
    a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, d)
    return _after_attention(x[:, :1], a, p, ways)


def _after_attention(
    x: torch.Tensor, a: torch.Tensor, p: dict[str, Any], ways: Ways
) -> tuple[torch.Tensor, torch.Tensor]:
    n, s, d = x.shape
    x = x + _linear(a, *p["o"]).view(n, s, d)
    h = F.layer_norm(x, (d,), *p["ln2"]).reshape(n * s, d)
    h = linear_gelu(h, *p["fc1"]) if ways.epilogue else F.gelu(_linear(h, *p["fc1"]))
    x = x + _linear(h, *p["fc2"]).view(n, s, d)
    return x, F.layer_norm(x, (d,), *p["next"])


def _linear(x: torch.Tensor, w: Any, b: torch.Tensor) -> torch.Tensor:
    if not isinstance(w, tuple):
        return F.linear(x, w, b)
    rounded, scale = _quantised(x)
    return torch._scaled_mm(rounded, w[0].t(), scale, w[1], bias=b, out_dtype=x.dtype, use_fast_accum=True)


def _quantised(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = x.abs().amax(-1, keepdim=True).float().clamp_min(1e-6) / 448
    return (x.float() / scale).to(_FP8), scale
