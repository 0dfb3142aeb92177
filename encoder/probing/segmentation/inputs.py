"""What a segmentation head is fed: activations of a frozen encoder, computed once or in every step, or pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from encoder.backbones.base import FrozenEncoder
from encoder.preprocessing import Recipe
from encoder.probing.activations import activations, as_maps
from encoder.probing.segmentation.data import tensor

CHUNK = 16
"""Images that go through the encoder at a time."""

Numbers = Sequence[int] | npt.NDArray[np.intp]


class Inputs:
    """The inputs of a head for N images.

    Args:
        encoder: frozen, on the device where it is to compute; None for a head that takes pixels.
        recipe: of the images.
        layers: how many activations the head takes; 0 for pixels.
        device: where the inputs are wanted.
    """

    def __init__(self, encoder: FrozenEncoder | None, recipe: Recipe, layers: int, device: torch.device | str) -> None:
        self._encoder, self._recipe, self._layers, self._device = encoder, recipe, layers, device
        self._kept: list[torch.Tensor] | None = None

    def of(self, images: torch.Tensor | npt.NDArray[np.uint8]) -> list[torch.Tensor]:
        """Maps [B, D, s, s] of images [B, S, S] uint8, or [[B, 3, S, S]] normalised pixels."""
        if not self._layers:
            return [self._recipe.normalise(images).to(self._device)]
        return [as_maps(patches) for patches in self._encoded(images)]

    def keep(self, images: npt.NDArray[np.uint8], gib: float) -> bool:
        """Compute the activations of all images once, if they fit into so many GiB as float16.

        Args:
            images: [N, S, S]; ``kept`` counts them from 0.
            gib: limit.

        Returns:
            Whether they are kept now.
        """
        if not self._layers or not len(images):
            return False
        first = self._encoded(images[:1])
        if len(images) * sum(one.numel() for one in first) * 2 > gib * (1 << 30):
            return False
        stores = [torch.empty((len(images), *one.shape[1:]), dtype=torch.float16) for one in first]
        for start in range(0, len(images), CHUNK):
            for store, found in zip(stores, self._encoded(images[start : start + CHUNK]), strict=True):
                store[start : start + CHUNK] = found
        self._kept = stores
        return True

    def subset(self, numbers: Numbers) -> Inputs:
        """The same for some of the images that are kept, counted anew."""
        part = Inputs(self._encoder, self._recipe, self._layers, self._device)
        if self._kept is not None:
            places = torch.as_tensor(np.asarray(numbers))
            part._kept = [store[places] for store in self._kept]
        return part

    def kept(self, numbers: Numbers) -> list[torch.Tensor] | None:
        """Maps of the images with these numbers, if they are kept."""
        if self._kept is None:
            return None
        places = torch.as_tensor(np.asarray(numbers))
        return [as_maps(store[places].to(self._device).float()) for store in self._kept]

    @torch.no_grad()
    def _encoded(self, images: torch.Tensor | npt.NDArray[np.uint8]) -> list[torch.Tensor]:
        assert self._encoder is not None
        parts = []
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK]
            pixels = self._recipe.normalise(chunk if isinstance(chunk, torch.Tensor) else tensor(chunk))
            parts.append([one.float() for one in activations(self._encoder, pixels.to(self._device), self._layers)])
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def keep_inputs(
    sets: Sequence[npt.NDArray[np.uint8]],
    encoder: FrozenEncoder | None,
    recipe: Recipe,
    layers: int,
    device: torch.device | str,
    *,
    gib: float,
) -> list[Inputs] | None:
    """Activations of several sets of images, computed once for many runs on them.

    Args:
        sets: [N, S, S] uint8 each.
        encoder: frozen, on the device.
        recipe: of the images.
        layers: 4 serve every head (the linear one takes the last), 1 the linear one alone.
        device: where inputs are wanted.
        gib: limit of all together, as float16.

    Returns:
        One for each set; None where they do not fit, or for a head that takes pixels.
    """
    total = max(1, sum(len(images) for images in sets))
    found = []
    for images in sets:
        inputs = Inputs(encoder, recipe, layers, device)
        if not inputs.keep(images, gib * len(images) / total):
            return None
        found.append(inputs)
    return found
