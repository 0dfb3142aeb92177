"""A toy problem: bright discs on dark noise, and an encoder that hands over a patch's own pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from encoder.backbones.base import Features, FrozenEncoder
from encoder.preprocessing import Recipe
from encoder.probing.segmentation.data import SegmentationSet

SIZE, PATCH = 64, 4
RECIPE = Recipe("toy", 1, SIZE, "minmax-then-resize", 0.5, 0.25, "these tests")
STRUCTURES = ("disc", "background")


class Patches(FrozenEncoder):
    """Patch vectors are the patch's pixels; counts the images that it encodes."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 1, 1), "toy")
        nn.init.ones_(self.model.weight)
        nn.init.zeros_(self.model.bias)
        self._seen = 0

    @property
    def seen(self) -> int:
        return self._seen

    @property
    def width(self) -> int:
        return PATCH * PATCH

    @property
    def patch_size(self) -> int:
        return PATCH

    def forward(self, pixel_values: torch.Tensor) -> Features:
        self._seen += len(pixel_values)
        patches = nn.functional.unfold(pixel_values[:, :1], PATCH, stride=PATCH).transpose(1, 2)
        return Features(patches.mean(1), patches)


def discs(number: int, seed: int = 0) -> SegmentationSet:
    """Images with masks of the disc and of all that is not the disc."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    images = np.empty((number, SIZE, SIZE), np.uint8)
    masks = np.empty((number, 2, SIZE, SIZE), np.bool_)
    for place in range(number):
        y, x = rng.uniform(22, 42, 2)
        masks[place, 0] = np.hypot(rows - y, columns - x) < rng.uniform(14, 20)
        masks[place, 1] = ~masks[place, 0]
        images[place] = np.where(masks[place, 0], 190, 60) + rng.integers(-20, 20, (SIZE, SIZE))
    people = [{"sex": "F" if place % 2 else "M"} for place in range(number)]
    return SegmentationSet.of(images, masks, STRUCTURES, attributes=people)
