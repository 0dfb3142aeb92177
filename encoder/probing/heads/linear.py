"""The linear head of DINOv2 (Oquab et al. 2023, 7.4): what single patch vectors say, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from encoder.errors import ConfigError
from encoder.probing.heads.blocks import Head


class LinearHead(Head):
    """One 1 x 1 convolution on the last activations: D + 1 trainable parameters per structure, 769 for ViT-B.

    DINOv2's own head has a batch normalisation before it; the paper's number of parameters leaves no room for one.
    Structures share no parameter: trained together, each is trained as if alone, but for the epoch that is chosen.
    """

    layers: ClassVar[int] = 1

    def __init__(self, width: int, structures: int, channels: int | None = None) -> None:
        super().__init__()
        if channels is not None:
            raise ConfigError("the linear head has no channels to choose")
        self.classifier = nn.Conv2d(width, structures, 1)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits [B, K, s, s] from [[B, D, s, s]]."""
        logits: torch.Tensor = self.classifier(maps[-1])
        return logits
