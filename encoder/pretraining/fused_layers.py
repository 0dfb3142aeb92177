"""Attention and fused layers of the trained transformer, which keep little for the backward pass.

On CPUs torch's fused attention takes twice as long as plain products in chunks that stay in the cache. On every other
device attention is torch's own function. LayerNorm and GELU are computed again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from encoder.backbones.linear import linear

Shapes = tuple[tuple[int, int], ...]
"""Of a packed sequence: (crops, tokens of each crop) for each group of crops of one size."""

SCORES = 1 << 21
"""Attention scores computed at a time on CPUs, so that they stay in the cache."""


def product_type(device: torch.device) -> torch.dtype:
    """The type in which matrix products are done: that of autocast, where it is on."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32


def attention(projected: torch.Tensor, shapes: Shapes, heads: int) -> torch.Tensor:
    """Softmax attention within each crop of a packed sequence.

    Args:
        projected: [T, 3 * D], queries, keys and values of all heads side by side, crop after crop.
        shapes: (crops, tokens of each crop) for each group of crops of one size; their products add up to T.
        heads: that D is divided into.

    Returns:
        [T, D]
    """
    if projected.device.type == "cpu" and not torch.compiler.is_compiling():
        mixed: torch.Tensor = _CpuAttention.apply(projected, shapes, heads)
        return mixed
    parts = []
    for part, (rows, length) in zip(projected.split([r * n for r, n in shapes]), shapes, strict=True):
        query, key, value = part.view(rows, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(query, key, value)
        parts.append(out.transpose(1, 2).reshape(rows * length, -1))
    return torch.cat(parts)


class _CpuAttention(torch.autograd.Function):
    """Keeps nothing but its input for the backward pass, and never holds more than ``SCORES`` scores."""

    @staticmethod
    def forward(ctx: Any, projected: torch.Tensor, shapes: Shapes, heads: int) -> torch.Tensor:
        ctx.save_for_backward(projected)
        ctx.shapes, ctx.heads = shapes, heads
        out = projected.new_empty(len(projected), projected.shape[1] // 3)
        sizes = [rows * length for rows, length in shapes]
        for part, target, shape in zip(projected.split(sizes), out.split(sizes), shapes, strict=True):
            query, key, value = _by_head(part, shape, heads)
            mixed = torch.empty_like(query)
            for chosen in _chunks(query):
                shares = torch.softmax(torch.bmm(query[chosen], key[chosen].transpose(1, 2)), dim=-1)
                torch.bmm(shares, value[chosen], out=mixed[chosen])
            rows, length = shape
            target.view(rows, length, heads, -1).transpose(1, 2).copy_(mixed.view(rows, heads, length, -1))
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (projected,) = ctx.saved_tensors
        gradient = torch.empty_like(projected)
        sizes = [rows * length for rows, length in ctx.shapes]
        parts = zip(
            projected.split(sizes), grad_outputs[0].split(sizes), gradient.split(sizes), ctx.shapes, strict=True
        )
        for part, grad_output, target, (rows, length) in parts:
            query, key, value = _by_head(part, (rows, length), ctx.heads)
            grad_output = grad_output.reshape(rows, length, ctx.heads, -1).transpose(1, 2).reshape(query.shape)
            grad_query, grad_key, grad_value = (torch.empty_like(query) for _ in range(3))
            for chosen in _chunks(query):
                shares = torch.softmax(torch.bmm(query[chosen], key[chosen].transpose(1, 2)), dim=-1)
                torch.bmm(shares.transpose(1, 2), grad_output[chosen], out=grad_value[chosen])
                inner = torch.bmm(grad_output[chosen], value[chosen].transpose(1, 2))
                inner = torch._softmax_backward_data(inner, shares, -1, shares.dtype)
                torch.bmm(inner, key[chosen], out=grad_query[chosen])
                torch.bmm(inner.transpose(1, 2), query[chosen], out=grad_key[chosen])
            targets = target.view(rows, length, 3, ctx.heads, -1).permute(2, 0, 3, 1, 4)
            grads_by_head = (one.view(rows, ctx.heads, length, -1) for one in (grad_query, grad_key, grad_value))
            torch.mul(next(grads_by_head), query.shape[-1] ** -0.5, out=targets[0])
            targets[1].copy_(next(grads_by_head))
            targets[2].copy_(next(grads_by_head))
        return gradient, None, None


def _by_head(part: torch.Tensor, shape: tuple[int, int], heads: int) -> tuple[torch.Tensor, ...]:
    """Queries, already divided by the root of their width, keys and values, each [crops * heads, N, d]."""
    rows, length = shape
    split = part.view(rows, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    query = part.new_empty(rows, heads, length, split.shape[-1])
    torch.mul(split[0], split.shape[-1] ** -0.5, out=query)
    key, value = (one.reshape(rows * heads, length, -1) for one in split[1:])
    return query.view(rows * heads, length, -1), key, value


def _chunks(query: torch.Tensor) -> Iterator[slice]:
    count, length, _ = query.shape
    step = max(1, SCORES // length**2)
    return (slice(start, start + step) for start in range(0, count, step))


def norm_linear(x: torch.Tensor, norm: nn.LayerNorm, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``linear(norm(x), weight, bias)`` of [T, I] that keeps ``x`` alone for the backward pass and repeats the norm."""
    product: torch.Tensor = _NormLinear.apply(x, norm.weight, norm.bias, norm.eps, weight, bias)
    return product


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        scale: torch.Tensor,
        shift: torch.Tensor,
        eps: float,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.types, ctx.eps = (weight.dtype, None if bias is None else bias.dtype), eps
        dtype = product_type(x.device)
        weight = weight.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            normed, mean, inverse_std = torch.native_layer_norm(x, x.shape[-1:], scale, shift, eps)
            ctx.save_for_backward(x, scale, shift, mean, inverse_std, weight)
            return linear(normed.to(dtype), weight, None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, scale, shift, mean, inverse_std, weight = ctx.saved_tensors
        grad_output, shape = grad_outputs[0].contiguous(), x.shape[-1:]
        with torch.autocast(x.device.type, enabled=False):
            normed = torch.native_layer_norm(x, shape, scale, shift, ctx.eps)[0].to(grad_output.dtype)
            grad_weight = linear(grad_output.t(), normed.t()).to(ctx.types[0])
            del normed
            inner = linear(grad_output, weight.t()).to(x.dtype)
            grad_x, grad_scale, grad_shift = torch.ops.aten.native_layer_norm_backward(
                inner, x, shape, mean, inverse_std, scale, shift, [True, True, True]
            )
        grad_bias = None if ctx.types[1] is None else grad_output.sum(0).to(ctx.types[1])
        return grad_x, grad_scale, grad_shift, None, grad_weight, grad_bias


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
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_output = grad_outputs[0].contiguous()
        inner = linear(grad_output, weight.t())
        grad_weight = linear(grad_output.t(), functional.gelu(x).t()).to(ctx.types[0])
        return torch.ops.aten.gelu_backward(inner, x), grad_weight, grad_output.sum(0).to(ctx.types[1])
