"""Linear layers on a CPU by oneDNN: the only module of the package that calls private operators of torch.

``Linear`` is for inference in bfloat16, with weights that are packed once. torch packs them again in every call, which
takes half of the time with few rows (decoding). oneDNN also fuses bias and GELU with the product.

``linear`` is for training in float32. torch gives such products to MKL, which on AMD's processors with AVX-512 reaches
half of what oneDNN does (107 and 230 GFLOP/s on one core of an EPYC). Without AVX-512 MKL is the faster one: 125 and 82
GFLOP/s in the backward pass on two cores of an older EPYC.

Other types and devices use torch's own products, and so does a version of torch whose operators are missing or differ.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

TOGETHER = 3200
"""Rows that a CPU computes at once: enough for efficient products, few enough for results to stay in its caches and
for malloc to reuse their memory."""


class Linear:
    """``x @ weight.T + bias``.

    Args:
        weight: [out, in].
        bias: [out], or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.bias = bias
        self._packed = weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and _works_in_bfloat16()
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight) if self._packed else weight

    @property
    def weight(self) -> Tensor:
        """Weights [out, in]; a copy if they are packed."""
        return self._weight.to_dense() if self._packed else self._weight

    def __call__(self, inputs: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Return [..., out].

        Args:
            inputs: [..., in].
            out: memory for the result of two-dimensional inputs, used if it saves time and the layer has a bias.
        """
        if self._packed:
            return self._onednn(inputs, "none")
        if out is not None and self.bias is not None:
            return torch.addmm(self.bias, inputs, self._weight.t(), out=out)
        return functional.linear(inputs, self._weight, self.bias)

    def gelu(self, inputs: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Return the result followed by the exact GELU; arguments as for a call."""
        if self._packed:
            return self._onednn(inputs, "gelu")
        result: Tensor = torch.ops.aten.gelu_(self(inputs, out=out))
        return result

    def added_to(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        """Return ``hidden`` plus the result for two-dimensional inputs; ``hidden`` may be overwritten."""
        if self._packed:
            sum_: Tensor = torch.ops.mkldnn._linear_pointwise.binary(inputs, hidden, self._weight, self.bias, "add")
            return sum_
        if self.bias is not None:
            hidden.add_(self.bias)
        return hidden.addmm_(inputs, self._weight.t())

    def _onednn(self, inputs: Tensor, after: str) -> Tensor:
        # the operator that torch.compile emits for a linear layer on a CPU; torch has no public one for packed weights
        result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self.bias, after, [], "none")
        return result


@cache
def _works_in_bfloat16() -> bool:
    """Return True if torch and the processor support the operators in bfloat16 and their results are correct."""
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    inputs, weight, bias, hidden = (
        torch.randn(*shape, generator=generator).bfloat16() for shape in ((3, 8), (5, 8), (5,), (3, 5))
    )
    plain = functional.linear(inputs.float(), weight.float(), bias.float())
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        if not torch.equal(packed.to_dense(), weight):
            return False
        pairs = [
            (torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "none"), plain),
            (torch.ops.mkldnn._linear_pointwise(inputs, packed, None, "none", [], "none"), plain - bias.float()),
            (torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "gelu", [], "none"), functional.gelu(plain)),
            (torch.ops.mkldnn._linear_pointwise.binary(inputs, hidden, packed, bias, "add"), plain + hidden.float()),
        ]
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
    return all(torch.allclose(found.float(), expected, rtol=0.02, atol=0.02) for found, expected in pairs)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias`` with gradients.

    Args:
        x: [..., in].
        weight: [out, in].
        bias: [out], or None.

    Returns:
        [..., out].
    """
    if (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and works_in_float32()
    ):
        product: Tensor = _OneDnnLinear.apply(x, weight, bias)
        return product
    return functional.linear(x, weight, bias)


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_output = grad_outputs[0].contiguous()
        rows = grad_output.view(-1, grad_output.shape[-1])
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _product(grad_output, weight.t()) if needs_x else None,
            _product(rows.t(), x.reshape(-1, x.shape[-1]).t()) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


@cache
def works_in_float32() -> bool:
    """Return True if oneDNN is the faster library here and its results are right; call before any fake tensor mode."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((3, 2, 8), (5, 8), (5,)))
    try:
        found = _product(x, weight, bias)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
    return torch.allclose(found, functional.linear(x, weight, bias), atol=1e-5)
