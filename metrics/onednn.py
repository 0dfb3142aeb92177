"""Linear layers by oneDNN on a CPU: the only module of the package that calls a private operator of torch.

torch's own linear layers go through MKL, which leaves half of the threads of an AMD processor idle. On 2 threads of one
core oneDNN takes 0.78 to 0.92 of the time of torch's. The public ways to it lose the gain or a part of it:
``torch.utils.mkldnn.MkldnnLinear`` takes 1.03 to 1.28, a 1x1 convolution 0.84 to 1.01. Where the operator is missing or
its results differ, as they may in another version of torch, torch's own layers stay.
"""

from __future__ import annotations

from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Module = TypeVar("Module", bound=nn.Module)


class OneDnnLinear(nn.Module):
    """A linear layer that shares its weights with another."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        return _onednn(inputs, self.weight, self.bias)


def with_onednn(model: Module) -> Module:
    """Replace the float32 linear layers of a model by oneDNN's where that works; only the order of summation differs.

    Args:
        model: model on its device, in evaluation mode; changed in place and returned.
    """
    for name, part in model.named_children():
        if isinstance(part, nn.Linear):
            if part.weight.device.type == "cpu" and part.weight.dtype is torch.float32 and _works():
                setattr(model, name, OneDnnLinear(part))
        else:
            with_onednn(part)
    return model


def _onednn(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # torch.compile makes this of a linear layer
    result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return result


@cache
def _works() -> bool:
    """Return if this torch has the operator, and its results agree with torch's own."""
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    inputs, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((3, 2, 8), (5, 8), (5,)))
    try:
        found = _onednn(inputs, weight, bias)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
    return torch.allclose(found, functional.linear(inputs, weight, bias), atol=1e-5)
