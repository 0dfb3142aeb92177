"""Multi-crop: from one radiograph to two global and several local crops, each changed at random as in DINOv2.

The order is DINOv2's: crop and resize, flip, brightness and contrast, blur, solarisation. Every step is torchvision's
to within its rounding to 8 bits; here grey values are rounded once where torchvision truncates after each step.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from encoder.pretraining.config import AugmentationConfig, CropsConfig, Range
from encoder.pretraining.crops import Box, by_area, by_side

Grey = npt.NDArray[np.uint8]
Table = npt.NDArray[np.float64]

GLOBAL_CROPS = 2
_BLUR_RADIUS = 4
_IDENTITY = np.arange(256, dtype=np.float64)


class MultiCrop:
    """Cuts the crops of one image. Holds no state: the generator handed in decides everything."""

    def __init__(self, crops: CropsConfig, augmentation: AugmentationConfig) -> None:
        self._crops = crops
        self._augmentation = augmentation

    def __call__(self, image: Grey, rng: np.random.Generator, global_crops: Grey, local_crops: Grey) -> None:
        """Fill in the crops of one image.

        Args:
            image: [h, w], brighter means denser.
            rng: source of all randomness.
            global_crops: [2, S, S], written: view 1, view 2.
            local_crops: [V, s, s], written.
        """
        crops, change = self._crops, self._augmentation
        whole = Image.fromarray(image)
        for view in range(GLOBAL_CROPS):
            box = self._box(rng, whole, crops.global_scale, crops.global_size)
            crop = _resize(whole, box, crops.global_size)
            solarize = change.solarize if view == 1 else 0.0
            global_crops[view] = self._change(rng, crop, change.blur[view], change.global_blur_sigma, solarize)
        for view in range(crops.local_crops):
            box = self._box(rng, whole, crops.local_scale, crops.local_size)
            crop = _resize(whole, box, crops.local_size)
            local_crops[view] = self._change(rng, crop, change.blur[2], change.local_blur_sigma, 0.0)

    def _box(self, rng: np.random.Generator, whole: Image.Image, scale: Range, target: int) -> Box:
        crops = self._crops
        if crops.crop_by == "side":
            return by_side(rng, whole.height, whole.width, scale=scale, target=target, upsample=crops.upsample)
        return by_area(
            rng, whole.height, whole.width, scale=scale, ratio=crops.ratio, target=target, upsample=crops.upsample
        )

    def _change(
        self, rng: np.random.Generator, crop: Image.Image, blur_p: float, sigma: Range, solarize_p: float
    ) -> Grey:
        change = self._augmentation
        if rng.random() < change.flip:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < change.jitter:
            crop = _apply(crop, _jitter(rng, crop, change.brightness, change.contrast))
        if rng.random() < blur_p:
            crop = Image.fromarray(blur(np.asarray(crop), rng.uniform(*sigma)))
        if rng.random() < solarize_p:
            crop = _apply(crop, solarized(_IDENTITY))
        return np.asarray(crop)


def brightened(values: Table, factor: float) -> Table:
    """``values`` (grey, 0-255) times ``factor``."""
    return np.clip(values * factor, 0, 255)


def contrasted(values: Table, factor: float, mean: float) -> Table:
    """Distances of ``values`` (grey, 0-255) from the image's mean, times ``factor``."""
    return np.clip(mean + (values - mean) * factor, 0, 255)


def solarized(values: Table) -> Table:
    """``values`` (grey, 0-255) from 128 on turned into their negatives."""
    return np.where(values >= 128, 255 - values, values)


def blur(image: Grey, sigma: float) -> Grey:
    """Gaussian blur with a 9 x 9 kernel; the edges are mirrored (the edge pixel itself is not repeated).

    Args:
        image: [h, w], at least 5 x 5.
        sigma: in pixels.

    Returns:
        [h, w].
    """
    weights = [math.exp(-0.5 * (distance / sigma) ** 2) for distance in range(_BLUR_RADIUS + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    rows = _smooth(np.pad(image, ((_BLUR_RADIUS, _BLUR_RADIUS), (0, 0)), mode="reflect"), [w / total for w in weights])
    padded = np.pad(rows, ((0, 0), (_BLUR_RADIUS, _BLUR_RADIUS)), mode="reflect")
    return (_smooth(padded.T, [w / total for w in weights]).T + 0.5).astype(np.uint8)


def _smooth(padded: npt.NDArray[np.uint8 | np.float32], weights: list[float]) -> npt.NDArray[np.float32]:
    length = len(padded) - 2 * _BLUR_RADIUS
    padded = padded.astype(np.float32)
    out = padded[_BLUR_RADIUS : _BLUR_RADIUS + length] * np.float32(weights[0])
    for distance, weight in enumerate(weights[1:], 1):
        before = padded[_BLUR_RADIUS - distance : _BLUR_RADIUS - distance + length]
        after = padded[_BLUR_RADIUS + distance : _BLUR_RADIUS + distance + length]
        out += (before + after) * np.float32(weight)
    return out


def _jitter(rng: np.random.Generator, crop: Image.Image, brightness: float, contrast: float) -> Table:
    """Brightness and contrast in random order, as one table from old to new grey values."""
    brightness_factor = rng.uniform(max(0.0, 1 - brightness), 1 + brightness)
    contrast_factor = rng.uniform(max(0.0, 1 - contrast), 1 + contrast)
    histogram = np.asarray(crop.histogram(), dtype=np.float64)
    table = _IDENTITY
    brightness_first = rng.random() < 0.5
    if brightness_first:
        table = brightened(table, brightness_factor)
    table = contrasted(table, contrast_factor, float(histogram @ table / histogram.sum()))
    return table if brightness_first else brightened(table, brightness_factor)


def _apply(image: Image.Image, table: Table) -> Image.Image:
    return image.point((table + 0.5).astype(np.uint8).tolist())


def _resize(whole: Image.Image, box: Box, size: int) -> Image.Image:
    top, left, height, width = box
    # crop, then resize: with resize(box=...) the filter would look beyond the crop
    crop = whole.crop((left, top, left + width, top + height))
    return crop.resize((size, size), Image.Resampling.BICUBIC)
