"""The paper's upper bound: a U-Net with an EfficientNet-B6, trained end to end."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch.nn import functional

from encoder.errors import ConfigError
from encoder.probing.heads.blocks import Head

STRIDE = 32
"""Of EfficientNet's coarsest map."""
LEVELS = 5


class UNet(Head):
    """``segmentation_models_pytorch.Unet`` with an EfficientNet-B6; takes the normalised image, not features.

    The paper's network has 45.9 M parameters and names neither library nor decoder. This library's has 43.8 M (exactly
    43,825,193 for one structure; 1.3 M of them in a layer that segmentation does not use), MONAI's FlexibleUNet 45.5 M:
    neither is within the rounding, and widening the decoder until it fits would only look alike.

    The weights are random. The paper does not say whether its own started from ImageNet; nothing is downloaded here.

    Args:
        width: not used.
        structures: K.
        channels: of the decoder's coarsest level, halved at each finer one; None for the library's 256.

    Raises:
        ConfigError: segmentation-models-pytorch is not installed, or the channels cannot be halved.
    """

    layers: ClassVar[int] = 0

    def __init__(self, width: int, structures: int, channels: int | None = None) -> None:
        super().__init__()
        channels = channels or 256
        if channels % (1 << (LEVELS - 1)):
            raise ConfigError(f"the U-Net's channels are halved {LEVELS - 1} times: {channels} cannot be")
        try:
            library: Any = import_module("segmentation_models_pytorch")
        except ImportError:
            raise ConfigError(
                "the U-Net needs segmentation-models-pytorch, which is not installed",
                hint="pip install segmentation-models-pytorch",
            ) from None
        self.network = library.Unet(
            "efficientnet-b6",
            encoder_weights=None,
            decoder_channels=tuple(channels >> level for level in range(LEVELS)),
            classes=structures,
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits [B, K, S, S] from [[B, 3, S, S]]; an S that is no multiple of 32 is filled up and cut again."""
        (pixels,) = maps
        height, width = pixels.shape[-2:]
        filled = functional.pad(pixels, (0, -width % STRIDE, 0, -height % STRIDE))
        logits: torch.Tensor = self.network(filled)
        return logits[..., :height, :width]
