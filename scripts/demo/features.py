"""Patch features of the frozen encoder, computed once: each image plain, training images also in augmented views."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from encoder.errors import ModelError
from encoder.preprocessing import Recipe

if TYPE_CHECKING:
    import torch

    from encoder.backbones.base import Vision

Pixels = NDArray[np.uint8]


def read_image(path: Path) -> Pixels:
    """Read a file as 8-bit grey [H, W] uint8."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def augment(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Vary exposure and framing slightly.

    Never flips left to right: the text may name a side. Rotated by at most 4 degrees, cropped to 86-100 % of the side
    (shifted at random), then gamma 0.45-1.45 (a raw DICOM image scaled from minimum to maximum is brighter than NIH's
    files), contrast and brightness, and in some images a black border, as collimators leave.

    Args:
        pixels: [H, W] uint8.
        rng: Source of the random choices.

    Returns:
        [h, w] uint8, a little smaller.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    if rng.random() < 0.7:
        image = image.rotate(float(rng.uniform(-4, 4)), Image.Resampling.BILINEAR)
    height, width = pixels.shape
    scale, aspect = rng.uniform(0.86, 1.0), np.exp(rng.uniform(-0.06, 0.06))
    h, w = int(min(1.0, scale / aspect) * height), int(min(1.0, scale * aspect) * width)
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    values = np.asarray(image, np.float32)[top : top + h, left : left + w] / 255
    values = np.power(values, np.exp(rng.uniform(np.log(0.45), np.log(1.45))))
    values = np.clip((values - 0.5) * rng.uniform(0.8, 1.25) + 0.5 + rng.uniform(-0.08, 0.08), 0, 1)
    if rng.random() < 0.15:
        border = int(rng.integers(1, max(2, min(h, w) // 25)))
        values[:border], values[-border:], values[:, :border], values[:, -border:] = 0, 0, 0, 0
    return (values * 255 + 0.5).astype(np.uint8)


def encode(
    encoder: Vision,
    recipe: Recipe,
    paths: Sequence[Path],
    *,
    views: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Patch features after the final LayerNorm, without the CLS token.

    Args:
        encoder: The frozen backbone.
        recipe: From pixels to encoder input.
        paths: One file per image.
        views: 1 = the plain image only; n = the plain image and n - 1 augmented ones.
        seed: Makes the augmented views repeatable.
        batch_size: Images per pass.
        progress: Called with (done, all) images.

    Returns:
        [len(paths), views, patches, width] float16.
    """
    import torch

    from encoder.backbones.base import image_tokens

    patches = image_tokens(encoder, recipe.size)
    out = torch.empty(len(paths) * views, patches, encoder.width, dtype=torch.float16)
    done = 0
    for batch in _batches(_views(recipe, paths, views, seed), batch_size):
        out[done : done + len(batch)] = encoder(recipe.normalise(np.stack(batch))).patches.half()
        done += len(batch)
        if progress is not None:
            progress(done, len(out))
    return out.view(len(paths), views, patches, -1)


def save(file: Path, encoder: str, fit: torch.Tensor, held_out: torch.Tensor) -> None:
    """Save features for further training runs; `encoder` is the SHA-256 of the encoder's weights."""
    from safetensors.torch import save_file

    save_file({"fit": fit.contiguous(), "held_out": held_out.contiguous()}, file, {"encoder": encoder})


def load(file: Path, encoder: str, fit: tuple[int, int], held_out: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Read a file of `save`.

    Args:
        file: The file.
        encoder: SHA-256 of the encoder's weights.
        fit: Expected images and views of the images to fit on.
        held_out: Expected number of held-out images.

    Raises:
        ModelError: if the file was made by another encoder, for other data or another number of views.
    """
    from safetensors import safe_open

    with safe_open(file, "pt") as stored:
        made_by = (stored.metadata() or {}).get("encoder")
        tensors = {name: stored.get_tensor(name) for name in ("fit", "held_out")}
    if made_by != encoder or tensors["fit"].shape[:2] != fit or len(tensors["held_out"]) != held_out:
        raise ModelError("the file of features was made by another encoder or for other images")
    return tensors["fit"], tensors["held_out"]


def _views(recipe: Recipe, paths: Sequence[Path], views: int, seed: int) -> Iterator[Pixels]:
    for index, path in enumerate(paths):
        pixels = read_image(path)
        yield recipe.apply(pixels, from_dicom=False)
        rng = np.random.default_rng((seed, index))
        for _ in range(views - 1):
            yield recipe.apply(augment(pixels, rng), from_dicom=False)


def _batches(items: Iterator[Pixels], size: int) -> Iterator[list[Pixels]]:
    batch: list[Pixels] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
