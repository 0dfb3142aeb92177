"""Projector from image features to word embeddings: linear, GELU, linear (LLaVA-1.5's ``mlp2x_gelu``), or longer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from encoder.errors import ModelError


class Projector(nn.Module):
    """MLP with biases and GELU between its layers, initialised by PyTorch's defaults as in LLaVA-1.5.

    Args:
        in_features: width of the encoder's features (768 for RAD-DINO).
        out_features: width of the language model (4096 for Vicuna-7B); also the hidden width.
        layers: number of linear layers, named ``linear_1``, ``linear_2`` and so on: 2 in LLaVA-1.5 and in the paper,
            4 in MAIRA-2 (Bannur et al. 2024).
    """

    def __init__(self, in_features: int, out_features: int, layers: int = 2) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        for number in range(1, layers + 1):
            self.add_module(f"linear_{number}", nn.Linear(in_features if number == 1 else out_features, out_features))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map [B, N, in_features] to [B, N, out_features], in the projector's own dtype."""
        projected = features.to(next(self.parameters()).dtype)
        for number, layer in enumerate(self.children()):
            projected = layer(nn.functional.gelu(projected) if number else projected)
        return projected

    @classmethod
    def load(cls, path: Path) -> Projector:
        """Read a safetensors file with ``linear_1``, ``linear_2`` and so on; the file determines their number.

        Raises:
            ModelError: if it is damaged, or a tensor is missing, left over or of another shape.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            weights = load_file(path)
            out_features, in_features = weights["linear_1.weight"].shape
            projector = cls(in_features, out_features, sum(name.endswith(".weight") for name in weights))
            projector.load_state_dict(weights)
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{path.name} does not fit an MLP of linear layers ({type(error).__name__})") from error
        return projector
