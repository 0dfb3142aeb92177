"""Augmented training images of the linear probe, encoded anew in every epoch.

The paper (E.3.1) names the kinds: horizontal flip, cropping, affine transform, colour jitter, Gaussian noise. Their
strengths are ours: it gives none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from encoder.backbones.base import FrozenEncoder
from encoder.datasets.manifest import Row
from encoder.errors import LlavaRadError
from encoder.preprocessing import Recipe
from encoder.probing.vectors import CHUNK, Progress, prepared, row_key
from encoder.reader.sandbox import Reader

CROP, DEGREES, SHIFT, ZOOM, SHEAR = (0.8, 1.0), 10.0, 0.05, (0.9, 1.1), 5.0
"""Share of the area that a crop keeps; degrees; share of a side; factor; degrees."""
BRIGHTNESS, CONTRAST, NOISE = 0.2, 0.2, 0.02
"""Largest relative changes; standard deviation of the noise, of grey values between 0 and 1."""


def transform(size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """From [1, S, S] grey values between 0 and 1 to augmented ones, drawn from torch's global generator."""
    from torchvision.transforms import v2

    steps: Any = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomResizedCrop(size, scale=CROP, ratio=(0.95, 1.05), antialias=True),
            v2.RandomAffine(DEGREES, translate=(SHIFT, SHIFT), scale=ZOOM, shear=SHEAR, interpolation=_bilinear()),
            v2.ColorJitter(BRIGHTNESS, CONTRAST),
            v2.GaussianNoise(0.0, NOISE),
        ]
    )
    return lambda image: steps(image)


def augment(image: npt.NDArray[np.uint8], apply: Callable[[torch.Tensor], torch.Tensor], seed: int) -> torch.Tensor:
    """[S, S] uint8, augmented the same way for the same seed; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed = apply(torch.from_numpy(image).float()[None] / 255)
    return (changed[0].clamp(0, 1) * 255).round().to(torch.uint8)


class AugmentedVectors:
    """Vectors of augmented training images: what :func:`encoder.probing.linear.train` asks for in every step.

    Args:
        encoder: frozen.
        rows: T training images.
        recipe: how they are prepared before they are augmented.
        cache: folder for the prepared images.
        seed: of the augmentation, with epoch and image.
        device: where to compute.
        progress: told the number of images that were prepared.

    Raises:
        LlavaRadError: an image cannot be read, or the cache cannot be used.
    """

    def __init__(
        self,
        encoder: FrozenEncoder,
        rows: Sequence[Row],
        recipe: Recipe,
        cache: Path,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        progress: Progress = lambda number: None,
    ) -> None:
        self._encoder, self._recipe, self._seed, self._device = encoder.to(device), recipe, seed, device
        self._apply = transform(recipe.size)
        self._images = _kept(rows, recipe, cache, progress)

    def __call__(self, epoch: int, numbers: npt.NDArray[np.intp]) -> torch.Tensor:
        """[B, D] of the images with these numbers."""
        images = [
            augment(self._images[number], self._apply, hash((self._seed, epoch, int(number))) % (1 << 62))
            for number in numbers
        ]
        with torch.no_grad():
            found: torch.Tensor = self._encoder(self._recipe.normalise(torch.stack(images)).to(self._device)).cls
        return found.float().cpu()


def _kept(rows: Sequence[Row], recipe: Recipe, cache: Path, progress: Progress) -> npt.NDArray[np.uint8]:
    """[T, S, S] in a file that is mapped into memory: a data set need not fit there."""
    file = cache / f"{hashlib.sha256(f'{recipe}{row_key(rows)}'.encode()).hexdigest()[:32]}.pixels.npy"
    try:
        if not file.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp.npy")
            shape = (len(rows), recipe.size, recipe.size)
            images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            with Reader() as reader:
                for start in range(0, len(rows), CHUNK):
                    chunk = rows[start : start + CHUNK]
                    images[start : start + CHUNK] = prepared(chunk, recipe, reader)
                    progress(len(chunk))
            images.flush()
            temporary.replace(file)
        found: npt.NDArray[np.uint8] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise LlavaRadError(f"prepared images cannot be kept ({type(error).__name__})") from None
    return found


def _bilinear() -> Any:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode.BILINEAR
