"""Results and gradients of two functions side by side, on tensors of every layout."""

from __future__ import annotations

from collections.abc import Callable

import torch

Layout = Callable[[torch.Tensor], torch.Tensor]

LAYOUTS: dict[str, Layout] = {
    "contiguous": lambda x: x,
    "columns first": lambda x: x.mT.contiguous().mT,
    "every other row": lambda x: torch.stack([x, -x], dim=-2).flatten(-3, -2)[..., ::2, :],
    "every other column": lambda x: torch.stack([x, -x], dim=-1).flatten(-2)[..., ::2],
    "part of wider rows": lambda x: torch.cat([x, x, x], dim=-1)[..., x.shape[-1] : 2 * x.shape[-1]],
    "one row again and again": lambda x: x[..., :1, :].expand(x.shape),
}


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def leaf(x: torch.Tensor) -> torch.Tensor:
    """Keeps the strides."""
    return x.detach().requires_grad_()


def gradients(
    function: Callable[..., torch.Tensor], tensors: list[torch.Tensor], slope: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The result and the gradients of all tensors."""
    leaves = [leaf(tensor) for tensor in tensors]
    out = function(*leaves)
    return (out.detach(), *torch.autograd.grad(out, leaves, slope.to(out.dtype)))


def doubled(
    function: Callable[..., torch.Tensor], tensors: list[torch.Tensor], slope: torch.Tensor
) -> list[torch.Tensor]:
    return list(gradients(function, [tensor.double() for tensor in tensors], slope.double()))


def furthest(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest distance in units of the exact tensor's root mean square."""
    assert ours.shape == exact.shape
    return float((ours.double() - exact).abs().max() / exact.square().mean().sqrt()) if exact.numel() else 0.0


def typical(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean square distance, in the same units."""
    return float(((ours.double() - exact).square().mean() / exact.square().mean()).sqrt())
