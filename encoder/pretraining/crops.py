"""Positions of multi-crop's crops. Boxes are (top, left, height, width) in pixels."""

from __future__ import annotations

import math

import numpy as np

from encoder.pretraining.config import Range

Box = tuple[int, int, int, int]

_TRIES = 10


def by_side(
    rng: np.random.Generator, height: int, width: int, *, scale: Range, target: int, upsample: bool = True
) -> Box:
    """A square whose side is uniform in ``scale`` x the image's shorter side (RAD-DINO, appendix E.1).

    Args:
        rng: source of the three numbers.
        height: of the image.
        width: of the image.
        scale: smallest and largest side as shares of the shorter side, each rounded to whole pixels, both included.
        target: side in pixels to which the crop will be resized.
        upsample: False raises the smallest side to ``target``, as far as the image reaches.
    """
    short = min(height, width)
    low, high = (max(1, round(share * short)) for share in scale)
    if not upsample:
        low = max(low, min(target, short))
        high = max(high, low)
    side = int(rng.integers(low, high, endpoint=True))
    return (*_place(rng, height, width, side, side), side, side)


def by_area(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    scale: Range,
    ratio: Range,
    target: int,
    upsample: bool = True,
) -> Box:
    """The box of torchvision's RandomResizedCrop, as DINOv2 uses it.

    Area uniform in ``scale`` x the image's, width / height log-uniform in ``ratio``; when ten such boxes do not fit,
    the largest centred box whose width / height is nearest to the image's within ``ratio``.

    Args:
        rng: source of the numbers.
        height: of the image.
        width: of the image.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width / height.
        target: side in pixels to which the crop will be resized.
        upsample: False raises height and width below ``target`` to it, as far as the image reaches.
    """
    least_width, least_height = (0, 0) if upsample else (min(target, width), min(target, height))
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        box_width = max(round(math.sqrt(area * aspect)), least_width)
        box_height = max(round(math.sqrt(area / aspect)), least_height)
        if 0 < box_width <= width and 0 < box_height <= height:
            return (*_place(rng, height, width, box_height, box_width), box_height, box_width)
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = max(round(width / ratio[0]), least_height)
    elif width / height > ratio[1]:
        box_width = max(round(height * ratio[1]), least_width)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _place(rng: np.random.Generator, height: int, width: int, box_height: int, box_width: int) -> tuple[int, int]:
    top = int(rng.integers(0, height - box_height, endpoint=True))
    left = int(rng.integers(0, width - box_width, endpoint=True))
    return top, left
