"""Augmented training images of the linear probe, prepared once and encoded anew in every step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from encoder.backbones.base import FrozenEncoder
from encoder.backbones.loading import in_fastest_form
from encoder.datasets.manifest import Row
from encoder.errors import LlavaRadError
from encoder.files import DIGESTS, Digests, sync, write
from encoder.locks import locked
from encoder.preprocessing import Recipe
from encoder.probing.vectors import CHUNK, Progress, encode, prepared
from encoder.reader.sandbox import Reader

CROP, DEGREES, SHIFT, ZOOM, SHEAR = (0.8, 1.0), 10.0, 0.05, (0.9, 1.1), 5.0
"""Share of the area that a crop keeps; rotation in degrees; shift as share of a side; scale; shear in degrees."""
BRIGHTNESS, CONTRAST, NOISE = 0.2, 0.2, 0.02
"""Largest relative changes; standard deviation of the noise, of grey values between 0 and 1."""


def transform(size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Build the augmentation of grey values [1, S, S] in 0..1; it draws from torch's global generator."""
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
    """Augment an image [S, S] uint8 in the same way for the same seed; torch's own generator is left unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed = apply(torch.from_numpy(image).float()[None] / 255)
    return (changed[0].clamp(0, 1) * 255).round().to(torch.uint8)


class AugmentedVectors:
    """Vectors of augmented images, computed anew in every step by the encoder that also computes the judged ones.

    Args:
        encoder: frozen; runs in its fastest form.
        rows: N images.
        recipe: preprocessing before the augmentation.
        cache: folder for the prepared images.
        batch_size: images of the encoder at a time.
        device: of the encoder.
        dtype: of the encoder.
        progress: called with the number of prepared images.
        digests: of the image files; default: those that ``cache`` remembers.

    Raises:
        LlavaRadError: if an image cannot be read, or the cache cannot be used.
    """

    def __init__(
        self,
        encoder: FrozenEncoder,
        rows: Sequence[Row],
        recipe: Recipe,
        cache: Path,
        *,
        batch_size: int = 32,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        progress: Progress = lambda number: None,
        digests: Digests | None = None,
    ) -> None:
        self._vision = in_fastest_form(encoder, size=recipe.size, device=device, dtype=dtype)
        self._recipe, self._batch_size, self._device = recipe, batch_size, device
        self._apply = transform(recipe.size)
        self._images = _kept(rows, recipe, cache, progress, digests or Digests(cache / DIGESTS))

    def __call__(self, seed: int, epoch: int, numbers: npt.NDArray[np.intp]) -> torch.Tensor:
        """Return the vectors [B, D] of the images with these numbers; each seed has augmentations of its own."""
        images = [
            augment(self._images[number], self._apply, stream(seed, epoch, int(number))).numpy() for number in numbers
        ]
        return torch.from_numpy(encode(self._vision, np.stack(images), self._recipe, self._batch_size, self._device))


def stream(seed: int, epoch: int, number: int) -> int:
    """Return the seed of one image's augmentation in one epoch of one run."""
    return int(np.random.SeedSequence((seed, epoch, number)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _kept(
    rows: Sequence[Row], recipe: Recipe, cache: Path, progress: Progress, digests: Digests
) -> npt.NDArray[np.uint8]:
    """Prepare the images [T, S, S] in a memory-mapped file: a data set need not fit into memory."""
    found = digests.of([row.path for row in rows])
    keys = [row.content(digest) for row, digest in zip(rows, found, strict=True)]
    name = hashlib.sha256(f"{recipe}{keys}".encode()).hexdigest()[:32]
    file = cache / f"{name}.pixels.npy"
    try:
        if not file.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            with locked(cache / f".{name}.lock"):
                if not file.is_file():
                    _prepare(rows, found, recipe, file, progress)
        kept: npt.NDArray[np.uint8] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise LlavaRadError(f"prepared images cannot be kept ({type(error).__name__})") from None
    return kept


def _prepare(rows: Sequence[Row], digests: Sequence[str], recipe: Recipe, file: Path, progress: Progress) -> None:
    """Write the file of prepared images; after a kill another call continues behind the last whole chunk."""
    part, count = file.with_name(f".{file.name}.part"), file.with_name(f".{file.name}.count")
    done = int(count.read_bytes()) if part.is_file() and count.is_file() else 0
    shape = (len(rows), recipe.size, recipe.size)
    images = np.lib.format.open_memmap(part, mode="r+" if done else "w+", dtype=np.uint8, shape=shape)
    progress(done)
    with Reader() as reader:
        for start in range(done, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            read = prepared(chunk, recipe, reader, digests=digests[start : start + CHUNK])
            images[start : start + CHUNK] = np.stack([image.pixels for image in read if image is not None])
            images.flush()
            write(count, str(start + len(chunk)))
            progress(len(chunk))
    part.replace(file)
    sync(file.parent)
    count.unlink()


def _bilinear() -> Any:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode.BILINEAR
