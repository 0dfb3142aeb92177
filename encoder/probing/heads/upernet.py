"""UPerNet (Xiao et al. 2018, "Unified perceptual parsing"): pyramid pooling and a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from encoder.probing.heads.blocks import Head, convolution, doubling, merged, normalisation, to_size

CHANNELS = 512
"""UPerNet's own for vision transformers (BEiT, Swin); gives the paper's 39.3 M."""
POOLED = (1, 2, 3, 6)
"""Sides of the pooled maps (Zhao et al. 2017)."""


class UPerNet(Head):
    """UPerNet on a plain vision transformer, as BEiT (Bao et al. 2021) has it.

    Four activations are brought to 4, 2, 1 and 1/2 times the patch grid's size by transposed convolutions that keep
    the width, the coarsest is pooled at four sizes, a feature pyramid runs from coarse to fine, all levels are merged.
    With ``CHANNELS`` that is 39.3 M trainable parameters for ViT-B (exactly 39,338,241 for one structure), as in the
    paper's table 3: rescaling 7.1 M, pyramid pooling 14.6 M, feature pyramid 8.3 M, merging 9.4 M.

    Args:
        width: D.
        structures: K.
        channels: of every layer.
    """

    layers: ClassVar[int] = 4

    def __init__(self, width: int, structures: int, channels: int | None = None) -> None:
        super().__init__()
        channels = channels or CHANNELS
        self.rescaled = nn.ModuleList(
            [
                nn.Sequential(doubling(width, width), normalisation(width), nn.GELU(), doubling(width, width)),
                doubling(width, width),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )
        self.pooled = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), convolution(width, channels, 1)) for side in POOLED
        )
        self.top = convolution(width + len(POOLED) * channels, channels, 3)
        self.lateral = nn.ModuleList(convolution(width, channels, 1) for _ in range(3))
        self.smooth = nn.ModuleList(convolution(channels, channels, 3) for _ in range(3))
        self.merge = convolution(4 * channels, channels, 3)
        self.classifier = nn.Conv2d(channels, structures, 1)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits [B, K, 4 s, 4 s] from four maps [B, D, s, s], s at least 2."""
        *fine, coarse = [rescaled(one) for one, rescaled in zip(maps, self.rescaled, strict=True)]
        above = self.top(merged([coarse, *(pool(coarse) for pool in self.pooled)]))
        levels = [above]
        for one, lateral, smooth in zip(fine[::-1], reversed(self.lateral), reversed(self.smooth), strict=True):
            above = lateral(one) + to_size(above, one.shape[-2:])
            levels.insert(0, smooth(above))
        logits: torch.Tensor = self.classifier(self.merge(merged(levels)))
        return logits
