"""Projector from image features to word embeddings: linear, GELU, linear (LLaVA-1.5's ``mlp2x_gelu``), or longer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from encoder.errors import ModelError

_MARKERS = "markers"


class Projector(nn.Module):
    """MLP with biases and GELU between its layers, initialised by PyTorch's defaults as in LLaVA-1.5.

    Args:
        in_features: width of the encoder's features (768 for RAD-DINO).
        out_features: width of the language model (4096 for Vicuna-7B); also the hidden width.
        layers: number of linear layers, named ``linear_1``, ``linear_2`` and so on: 2 in LLaVA-1.5 and in the paper,
            4 in MAIRA-2 (Bannur et al. 2024).
        markers: learn a vector for lateral and one for prior images, which is added to their projected features; zero
            at first.

    Attributes:
        markers: [2, out_features], or None.
    """

    def __init__(self, in_features: int, out_features: int, layers: int = 2, *, markers: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        for number in range(1, layers + 1):
            self.add_module(f"linear_{number}", nn.Linear(in_features if number == 1 else out_features, out_features))
        self.markers = nn.Parameter(torch.zeros(2, out_features)) if markers else None

    def forward(self, features: torch.Tensor, kinds: torch.Tensor | None = None) -> torch.Tensor:
        """Map [..., N, in_features] to [..., N, out_features], in the projector's own dtype.

        Args:
            features: of patches.
            kinds: [..., N] number of the kind of each one's image, see ``templates.KINDS``; None without markers.
        """
        projected = features.to(next(self.parameters()).dtype)
        for number, layer in enumerate(self.children()):
            projected = layer(nn.functional.gelu(projected) if number else projected)
        if kinds is None or self.markers is None:
            return projected
        frontal = self.markers.new_zeros(1, self.out_features)
        return projected + torch.cat([frontal, self.markers])[kinds]

    def add_markers(self) -> None:
        """Begin to learn markers, from zero."""
        if self.markers is None:
            like = next(self.parameters())
            self.markers = nn.Parameter(like.new_zeros(2, self.out_features))

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
            layers = sum(name.endswith(".weight") for name in weights)
            projector = cls(in_features, out_features, layers, markers=_MARKERS in weights)
            projector.load_state_dict(weights)
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{path.name} does not fit an MLP of linear layers ({type(error).__name__})") from error
        return projector


def pooled_tokens(tokens: int, side: int) -> int:
    """Return the number of features that :func:`pool` leaves of a square image's."""
    return math.ceil(math.isqrt(tokens) / side) ** 2


def pool(patches: torch.Tensor, side: int) -> torch.Tensor:
    """Average the features of squares of patches; those at the right and lower edge may be smaller.

    Args:
        patches: [I, N, D] of square images, row by row.
        side: of the squares, in patches.

    Returns:
        [I, ceil(sqrt(N) / side) ** 2, D].
    """
    if side == 1:
        return patches
    grid = math.isqrt(patches.shape[1])
    if grid * grid != patches.shape[1]:
        raise ValueError(f"{patches.shape[1]} patches are no square image")
    plane = patches.transpose(1, 2).unflatten(2, (grid, grid))
    found = nn.functional.avg_pool2d(plane, side, ceil_mode=True, count_include_pad=False)
    return found.flatten(2).transpose(1, 2)


def project_images(projector: Projector, patches: torch.Tensor, kinds: Sequence[int], side: int) -> list[torch.Tensor]:
    """Project the images of prompts: those after a frontal one pooled, and marked if the projector has markers.

    Args:
        projector: of the checkpoint.
        patches: [I, N, D].
        kinds: kind of each image.
        side: of the squares that are pooled.

    Returns:
        [n, width] of each image.
    """
    if side == 1 and projector.markers is None:
        return list(projector(patches))
    parts = [one[0] if kind == 0 else pool(one, side)[0] for one, kind in zip(patches.split(1), kinds, strict=True)]
    sizes = [len(part) for part in parts]
    marks = torch.tensor(kinds, device=patches.device).repeat_interleave(torch.tensor(sizes, device=patches.device))
    return list(projector(torch.cat(parts), marks).split(sizes))
