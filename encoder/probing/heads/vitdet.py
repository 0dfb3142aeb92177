"""ViTDet's simple feature pyramid (Li et al. 2022, "Exploring plain vision transformer backbones") as a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from encoder.probing.heads.blocks import Head, convolution, doubling, merged

CHANNELS = 540
"""Chosen for the paper's 24.8 M; ViTDet's own 256 give 7.9 M."""


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, h, w], as ViTDet has it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ViTDet(Head):
    """Four activations at 4, 2, 1 and 1/2 times the patch grid's size, merged by one 3 x 3 convolution.

    As published: transposed convolutions that halve the width with each doubling (768 -> 384 -> 192), a maximum over
    2 x 2 for the coarsest level, then for each level 1 x 1 and 3 x 3 convolutions with LayerNorm. As the paper's table
    has it ("4 x 768 features"), each level starts from an activation of its own; ViTDet itself has the last one only.

    ViTDet feeds a detector; how the paper goes from four levels to a mask is not said. Here as in UPerNet: levels side
    by side, one 3 x 3 convolution, a 1 x 1 classifier. With ``CHANNELS`` that is 24.8 M parameters for ViT-B (exactly
    24,801,877 for one structure). The total is the paper's; where the parameters sit is our reading.

    Args:
        width: D.
        structures: K.
        channels: of every level and of the merged map.
    """

    layers: ClassVar[int] = 4

    def __init__(self, width: int, structures: int, channels: int | None = None) -> None:
        super().__init__()
        channels = channels or CHANNELS
        half, quarter = width // 2, width // 4
        self.rescaled = nn.ModuleList(
            [
                nn.Sequential(doubling(width, half), ChannelNorm(half), nn.GELU(), doubling(half, quarter)),
                doubling(width, half),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, channels, 1, bias=False),
                ChannelNorm(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                ChannelNorm(channels),
            )
            for inputs in (quarter, half, width, width)
        )
        self.merge = convolution(4 * channels, channels, 3)
        self.classifier = nn.Conv2d(channels, structures, 1)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits [B, K, 4 s, 4 s] from four maps [B, D, s, s], s at least 2."""
        levels = [
            functional.relu(level(rescaled(one)))
            for one, rescaled, level in zip(maps, self.rescaled, self.levels, strict=True)
        ]
        logits: torch.Tensor = self.classifier(self.merge(merged(levels)))
        return logits
