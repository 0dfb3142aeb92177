"""Crops of different sizes as one packed sequence of tokens, and those of them that go through a residual branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from encoder.pretraining.fused_layers import Shapes, starts_of


class Packing(NamedTuple):
    """Layout of the crops in a packed sequence.

    Attributes:
        shapes: (crops, tokens of each crop) for each group.
        starts: [crops + 1], for variable-length attention, where that is used.
    """

    shapes: Shapes
    starts: torch.Tensor | None = None

    @classmethod
    def of(cls, shapes: Shapes, device: torch.device) -> Packing:
        """Return the packing of crops that come one after the other."""
        return cls(shapes, starts_of(shapes, device))


class Kept(NamedTuple):
    """Crops that go through a residual branch, and the positions of their tokens in the packed sequence.

    Attributes:
        tokens: [k] int64, ascending.
        packing: of the kept tokens.
        scales: crops / kept crops of each group, which keeps the expectation.
    """

    tokens: torch.Tensor
    packing: Packing
    scales: tuple[float, ...]


class Wanted(NamedTuple):
    """The tokens whose features are wanted.

    Attributes:
        tokens: [M] int64, places in the packed sequence.
        scale: [M, 1], of their last MLP branch, 0 where it is dropped; None for 1. All are computed, so that their
            number does not change from step to step.
    """

    tokens: torch.Tensor
    scale: torch.Tensor | None = None


def draw_kept(shapes: Shapes, branches: int, drop_path: float, device: torch.device) -> list[Kept]:
    """Draw the crops that go through each residual branch, from torch's generator of the CPU; send them once.

    Args:
        shapes: of all crops.
        branches: number of residual branches.
        drop_path: share of the crops that skip each of them.
        device: of the tokens.
    """
    counts = kept_crops([rows for rows, _ in shapes], drop_path)
    drawn = [
        torch.rand(branches, rows).argsort(1)[:, :count].sort(1).values
        for (rows, _), count in zip(shapes, counts, strict=True)
    ]
    crops = torch.cat(drawn, dim=1)
    if device.type == "cuda":
        crops = crops.pin_memory()
    tokens, start = [], 0
    chosen = crops.to(device, non_blocking=True).split(counts, dim=1)
    for (rows, length), part in zip(shapes, chosen, strict=True):
        at = start + part[:, :, None] * length + torch.arange(length, device=device)
        tokens.append(at.flatten(1))
        start += rows * length
    parts: Shapes = tuple((count, length) for count, (_, length) in zip(counts, shapes, strict=True))
    packing = Packing.of(parts, device)
    scales = tuple(rows / count for (rows, _), count in zip(shapes, counts, strict=True))
    return [Kept(places, packing, scales) for places in torch.cat(tokens, dim=1)]


def kept_crops(groups: Sequence[int], drop_path: float) -> list[int]:
    """Count the crops of each group that go through a residual branch: their share rounded down, at least one.

    A group takes the first group's share if that is a whole number of crops and differs by at most a hundredth of the
    group, so that one factor serves all groups.
    """
    counts = [max(int(rows * (1 - drop_path)), 1) for rows in groups]
    for index, rows in enumerate(groups):
        alike, rest = divmod(counts[0] * rows, groups[0])
        if rest == 0 and abs(alike - counts[index]) <= rows / 100:
            counts[index] = alike
    return counts


def among(wanted: torch.Tensor, kept: Kept | None, total: int) -> Wanted:
    """Tell which of the wanted tokens have their last MLP branch, of ``total`` tokens in all."""
    if kept is None:
        return Wanted(wanted)
    scale = torch.zeros(total, 1, device=wanted.device)
    sizes = [rows * length for rows, length in kept.packing.shapes]
    for places, value in zip(kept.tokens.split(sizes), kept.scales, strict=True):
        scale.index_fill_(0, places, value)
    return Wanted(wanted, scale[wanted])
