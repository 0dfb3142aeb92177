"""Pictures of masks: truth, prediction and their overlap in colours over the grey image."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from encoder.backbones.attention_maps import grey, png, sheet
from encoder.errors import LlavaRadError
from encoder.files import write

TRUTH, PREDICTION, BOTH = (0, 205, 0), (235, 30, 30), (240, 220, 0)
Bools = npt.NDArray[np.bool_]
Picture = npt.NDArray[np.uint8]


def overlay(
    image: npt.NDArray[np.uint8],
    truth: Bools | None,
    prediction: Bools | None,
    *,
    style: Literal["fill", "outline"] = "fill",
    strength: float = 0.4,
) -> Picture:
    """Draw truth (green), prediction (red) and their overlap (yellow) of one structure over the grey image.

    Args:
        image: [S, S] uint8.
        truth: [S, S]; None draws none.
        prediction: [S, S]; None draws none.
        style: filled areas, or their edges.
        strength: opacity of areas; edges are opaque.

    Returns:
        [S, S, 3].

    Raises:
        LlavaRadError: if the sizes differ.
    """
    nothing = np.zeros(image.shape, np.bool_)
    masks = [nothing if mask is None else mask for mask in (truth, prediction)]
    if any(mask.shape != image.shape for mask in masks):
        raise LlavaRadError("masks need the size of their image")
    if style == "outline":
        masks, strength = [edge(mask, max(1, round(len(image) / 250))) for mask in masks], 1.0
    there, drawn = masks
    picture = grey(image).astype(np.float64)
    for area, colour in ((there & ~drawn, TRUTH), (drawn & ~there, PREDICTION), (there & drawn, BOTH)):
        picture[area] += strength * (np.array(colour) - picture[area])
    return np.rint(picture).astype(np.uint8)


def edge(mask: Bools, width: int = 1) -> Bools:
    """Select the mask's pixels within ``width`` of its outside; the image's border does not count as outside."""
    inner = mask
    for _ in range(width):
        framed = np.pad(inner, 1, mode="edge")
        inner = inner & framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return mask & ~inner


def overlay_sheet(
    images: npt.NDArray[np.uint8], truths: Bools, predictions: Bools, *, style: Literal["fill", "outline"] = "fill"
) -> Picture:
    """Arrange images as rows: the image itself and one overlay for each structure.

    Args:
        images: [N, S, S] uint8.
        truths: [N, K, S, S].
        predictions: [N, K, S, S].
        style: as for ``overlay``.
    """
    pictures = []
    for image, truth, prediction in zip(images, truths, predictions, strict=True):
        pictures.append(grey(image))
        pictures += [overlay(image, *pair, style=style) for pair in zip(truth, prediction, strict=True)]
    return sheet(pictures, 1 + truths.shape[1])


def write_png(picture: Picture, file: Path) -> None:
    """Write a picture atomically.

    Raises:
        LlavaRadError: if the file cannot be written.
    """
    try:
        write(file, png(picture))
    except OSError as error:
        raise LlavaRadError(f"the picture could not be written: {error.strerror or type(error).__name__}") from error
