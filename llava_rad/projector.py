"""The bridge from image features to word embeddings: linear, GELU, linear (LLaVA-1.5's ``mlp2x_gelu``)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from encoder.errors import ModelError


class Projector(nn.Module):
    """Two-layer MLP with biases, PyTorch's default initialisation as in LLaVA-1.5.

    Args:
        in_features: width of the encoder's features (768 for RAD-DINO).
        out_features: width of the language model (4096 for Vicuna-7B); also the hidden width.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_features, out_features)
        self.linear_2 = nn.Linear(out_features, out_features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[B, N, in_features] -> [B, N, out_features], in the projector's own dtype."""
        hidden = nn.functional.gelu(self.linear_1(features.to(self.linear_1.weight.dtype)))
        projected: torch.Tensor = self.linear_2(hidden)
        return projected

    @classmethod
    def load(cls, path: Path) -> Projector:
        """Read a safetensors file with ``linear_1`` and ``linear_2``.

        Raises:
            ModelError: it is damaged, or a tensor is missing, left over or of another shape.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            weights = load_file(path)
            out_features, in_features = weights["linear_1.weight"].shape
            projector = cls(in_features, out_features)
            projector.load_state_dict(weights)
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{path.name} does not fit a two-layer MLP ({type(error).__name__})") from error
        return projector
