"""Decoder heads for segmentation on top of frozen patch features, by name.

A head takes the encoder's activations as maps [B, D, s, s], one or four of them, and gives logits [B, K, h, w] for K
structures. It does not know the image's size: who calls it brings the logits there, bilinearly.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from encoder.errors import ConfigError
from encoder.probing.heads.blocks import Head
from encoder.probing.heads.linear import LinearHead
from encoder.probing.heads.unet import UNet
from encoder.probing.heads.upernet import UPerNet
from encoder.probing.heads.vitdet import ViTDet

HEADS: dict[str, Callable[[int, int, int | None], Head]] = {
    "linear": LinearHead,
    "vitdet": ViTDet,
    "upernet": UPerNet,
    "unet": UNet,
}
"""Name -> (width of the features, number of structures, channels or None for the head's own) -> head."""


def build_head(name: str, width: int, structures: int, channels: int | None = None) -> Head:
    """A head with random weights, drawn from torch's global generator.

    Args:
        name: one of ``HEADS``.
        width: D, of the encoder's features; not used by ``unet``.
        structures: K.
        channels: of the head's own layers; None for the paper's number of parameters.

    Raises:
        ConfigError: there is no such head, or it has no channels to choose.
    """
    if name not in HEADS:
        raise ConfigError(f"there is no segmentation head {name!r}", hint=f"choose one of {', '.join(HEADS)}")
    return HEADS[name](width, structures, channels)


def trainable(module: nn.Module) -> int:
    """Number of trainable parameters, as in the paper's table 3."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


__all__ = ["HEADS", "Head", "LinearHead", "UNet", "UPerNet", "ViTDet", "build_head", "trainable"]
