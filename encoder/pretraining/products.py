"""Matrix products and attention, by whichever of torch's libraries is fastest for them on the device at hand.

On CPUs torch gives float32 products to MKL, which on AMD's processors reaches half of what oneDNN does (107 and
230 GFLOP/s on one core of an EPYC with AVX-512), while torch's fused attention for bfloat16 loses to three plain
operations for short sequences. On every other device these are torch's own functions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

SHORT = 512
"""Tokens up to which plain attention is faster than fused attention, for bfloat16 on CPUs."""


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x @ weight.T + bias``: [..., I], [O, I], [O] -> [..., O]."""
    if (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
    ):
        product: torch.Tensor = _OneDnnLinear.apply(x, weight, bias)
        return product
    return functional.linear(x, weight, bias)


def _one_dnn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _one_dnn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        slope = slopes[0].contiguous()
        rows = slope.view(-1, slope.shape[-1])
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _one_dnn(slope, weight.t()) if needs_x else None,
            _one_dnn(rows.t(), x.reshape(-1, x.shape[-1]).t()) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Softmax attention: three times [B, H, N, d] -> [B, H, N, d]."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[-2] <= SHORT:
        scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
        return torch.softmax(scores, dim=-1).to(query.dtype) @ value
    return functional.scaled_dot_product_attention(query, key, value)


def gelu_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """``linear(gelu(x), weight, bias)`` that keeps ``x`` alone for the backward pass and repeats its GELU there."""
    product: torch.Tensor = _GeluLinear.apply(x, weight, bias)
    return product


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.types = weight.dtype, bias.dtype
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
        ctx.save_for_backward(x, weight)
        with torch.autocast(x.device.type, enabled=False):
            return linear(functional.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        slope = slopes[0].contiguous()
        inner = linear(slope, weight.t())
        weight_slope = linear(slope.t(), functional.gelu(x).t()).to(ctx.types[0])
        return torch.ops.aten.gelu_backward(inner, x), weight_slope, slope.sum(0).to(ctx.types[1])
