"""The frozen encoder's patch features, computed once and kept on disk, for runs whose language model is small."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from encoder.backbones.base import FrozenEncoder, image_tokens
from encoder.errors import LlavaRadError
from encoder.preprocessing import Recipe
from llava_rad.training.samples import Pixels

_BATCH = 16
_TYPES: dict[torch.dtype, Any] = {torch.float32: np.dtype("<f4"), torch.bfloat16: np.dtype("<u2")}
"""bfloat16, which NumPy does not know, is kept as its bits."""


class Features:
    """Patch features [N, D] of each image of a pixel cache, memory-mapped, in the encoder's own type."""

    field = "features"

    def __init__(self, file: Path) -> None:
        self._file = file
        self._array: npt.NDArray[np.generic] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"_file": self._file, "_array": None}

    def __getitem__(self, number: int) -> npt.NDArray[np.generic]:
        if self._array is None:
            self._array = np.load(self._file, mmap_mode="r", allow_pickle=False)
        return np.array(self._array[number])


def as_tensor(features: torch.Tensor) -> torch.Tensor:
    """Features as they were kept, as the numbers that they are."""
    return features.view(torch.bfloat16) if features.dtype == torch.uint16 else features


def keep_features(
    pixels: Pixels,
    encoder: FrozenEncoder,
    weights: str,
    recipe: Recipe,
    *,
    device: torch.device,
    advance: Callable[[int], None],
) -> Features:
    """Compute the features of all images, or find them beside the pixel cache.

    Args:
        pixels: the images.
        encoder: on ``device``.
        weights: SHA-256 of the encoder's weights.
        recipe: of the images.
        device: where to compute.
        advance: called with the number of images just done.

    Raises:
        LlavaRadError: the disk is too small or refuses.
    """
    dtype = encoder.dtype
    parts = ["llava-rad.features/1", pixels.cache.fingerprint, weights, recipe.to_dict(), str(dtype)]
    name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    file = pixels.cache.folder / f"features-{name}.npy"
    if file.is_file():
        return Features(file)
    shape = (len(pixels), image_tokens(encoder, recipe.size), encoder.width)
    needed, free = int(np.prod(shape)) * dtype.itemsize, shutil.disk_usage(file.parent).free
    if needed > free:
        raise LlavaRadError(
            f"the features need {needed / 1e9:.1f} GB, the disk of the pixel cache has {free / 1e9:.1f} GB free",
            hint="data.keep_features=false computes them in every epoch",
        )
    temporary = file.with_name(f".{file.name}-{secrets.token_hex(8)}.tmp")
    try:
        array = np.lib.format.open_memmap(temporary, "w+", _TYPES[dtype], shape)
        for start in range(0, len(pixels), _BATCH):
            images = np.stack([pixels[i] for i in range(start, min(start + _BATCH, len(pixels)))])
            found = encoder(recipe.normalise(images).to(device)).patches.cpu()
            bits = found.view(torch.uint16) if dtype == torch.bfloat16 else found
            array[start : start + len(images)] = bits.numpy()
            advance(len(images))
        array.flush()
        del array
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(file)
    except OSError as error:
        raise LlavaRadError(f"the features cannot be written ({os.strerror(error.errno or 0)})") from None
    finally:
        temporary.unlink(missing_ok=True)
    return Features(file)
