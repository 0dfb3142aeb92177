"""Features of the images of a run, kept on disk beside their pixel cache."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from encoder.backbones.base import FrozenEncoder, image_tokens
from encoder.errors import LlavaRadError
from encoder.files import check_room
from encoder.locks import locked
from encoder.preprocessing import Recipe
from llava_rad.training.data import Pixels

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
    """Turn stored features back into numbers: bits of bfloat16 are stored as uint16."""
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
        LlavaRadError: if the disk is too small or refuses.
    """
    parts = ["llava-rad.features/1", pixels.cache.fingerprint, weights, recipe.to_dict(), str(encoder.dtype)]
    name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    file = pixels.cache.folder / f"features-{name}.npy"
    with locked(pixels.cache.folder / ".features.lock"):
        if not file.is_file():
            _write_features(file, pixels, encoder, recipe, device=device, advance=advance)
    return Features(file)


def _write_features(
    file: Path,
    pixels: Pixels,
    encoder: FrozenEncoder,
    recipe: Recipe,
    *,
    device: torch.device,
    advance: Callable[[int], None],
) -> None:
    dtype = encoder.dtype
    shape = (len(pixels), image_tokens(encoder, recipe.size), encoder.width)
    needed = int(np.prod(shape)) * dtype.itemsize
    check_room(file.parent, needed, "the features file", "data.keep_features=false computes them in every epoch")
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
