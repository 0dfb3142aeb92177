"""DINO and iBOT projection heads. Parameter names are those of ``dino_head.safetensors`` in microsoft/rad-dino."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from encoder.backbones.linear import linear
from encoder.pretraining.config import HeadConfig
from encoder.pretraining.fused_layers import cast, product_type


class Prototypes(nn.Module):
    """The last layer: weight-normalised prototypes, without bias.

    Own parameters in place of torch's weight_norm, whose modules cannot be copied after a forward pass.
    """

    def __init__(self, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(prototypes, 1))
        self.weight_v = nn.Parameter(torch.empty(prototypes, bottleneck))
        nn.init.uniform_(self.weight_v, -(bottleneck**-0.5), bottleneck**-0.5)  # as torch's Linear

    def forward(self) -> torch.Tensor:
        """The weight [prototypes, bottleneck]."""
        weight: torch.Tensor = self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True))
        return weight


class Head(nn.Module):
    """An MLP from features to a normalised bottleneck, and the prototypes it is compared with.

    The scores themselves (bottleneck x prototypes) are never made as a whole; see ``losses.prototype_cross_entropy``.

    Args:
        width: D, of the features.
        config: sizes.
    """

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        sizes = [width, *[config.hidden_size] * (config.layers - 1), config.bottleneck]
        layers: list[nn.Module] = []
        for index in range(config.layers):
            linear = nn.Linear(sizes[index], sizes[index + 1])
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        self.last_layer = Prototypes(config.bottleneck, config.prototypes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[M, D] -> [M, bottleneck], of length 1."""
        dtype = product_type(features.device)
        weights = iter(cast(list(self.mlp.parameters()), dtype))
        hidden = features.to(dtype)
        with torch.autocast(features.device.type, enabled=False):
            for layer in self.mlp:
                hidden = linear(hidden, next(weights), next(weights)) if isinstance(layer, nn.Linear) else layer(hidden)
            return functional.normalize(hidden.float(), dim=-1)
