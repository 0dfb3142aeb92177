"""Linear layers by oneDNN on a CPU. torch's own go through MKL, which leaves half of an AMD processor unused."""

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
    """The same model, its float32 linear layers by oneDNN where that works. Only the order of summation differs.

    Args:
        model: on its device, in evaluation mode.
    """
    for name, part in model.named_children():
        if isinstance(part, nn.Linear):
            if part.weight.device.type == "cpu" and part.weight.dtype is torch.float32 and _works():
                setattr(model, name, OneDnnLinear(part))
        else:
            with_onednn(part)
    return model


def _onednn(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # what torch.compile makes of a linear layer; without it there is no other way to it that copies nothing
    result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return result


@cache
def _works() -> bool:
    """Whether this torch has the operation, and it is right."""
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    inputs, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((3, 2, 8), (5, 8), (5,)))
    try:
        found = _onednn(inputs, weight, bias)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
    return torch.allclose(found, functional.linear(inputs, weight, bias), atol=1e-5)
