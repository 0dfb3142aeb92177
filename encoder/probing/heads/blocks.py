"""What the heads are built of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional


class Head(nn.Module):
    """A decoder.

    Attributes:
        layers: how many of the encoder's activations it takes; 0 for one that takes the normalised pixels.
    """

    layers: ClassVar[int]

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits [B, K, h, w] from ``layers`` maps [B, D, s, s] (shallowest first), or from [[B, 3, S, S]]."""
        raise NotImplementedError


def normalisation(channels: int) -> nn.GroupNorm:
    """Group normalisation, of at most 32 groups and at least 16 channels in each where there are as many.

    Published decoders have batch normalisation here, with as many parameters. It cannot be trained on a single image,
    which the few-shot curve asks for, and its results depend on who else is in the batch.
    """
    most = max(1, min(32, channels // 16))
    return nn.GroupNorm(max(groups for groups in range(1, most + 1) if channels % groups == 0), channels)


def convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Convolution that keeps the size, without bias; normalisation; ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        normalisation(outputs),
        nn.ReLU(inplace=True),
    )


def doubling(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    """Transposed convolution to twice the size, 2 x 2 with stride 2."""
    return nn.ConvTranspose2d(inputs, outputs, 2, 2)


def to_size(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """[B, C, h, w] at another size, bilinearly (corners are not aligned)."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def merged(levels: Sequence[torch.Tensor]) -> torch.Tensor:
    """All levels at the size of the first, side by side as channels."""
    size = levels[0].shape[-2:]
    return torch.cat([to_size(level, size) for level in levels], dim=1)
