"""Resampling, cropping and grey-level scaling of one-channel images. NumPy and Pillow are imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Resampling = Literal["bicubic", "bilinear"]
Margin = Literal["floor", "half-even"]


def resize(image: npt.NDArray[Any], size: int, resampling: Resampling = "bicubic") -> npt.NDArray[Any]:
    """Resize [H, W] so that the shortest side is ``size``, with Pillow like Hugging Face's processors."""
    import numpy as np
    from PIL import Image

    height, width = image.shape
    short, long = min(height, width), max(height, width)
    other = int(size * long / short)
    target = (size, other) if width <= height else (other, size)
    if (width, height) == target:
        return image
    kind = Image.Resampling.BICUBIC if resampling == "bicubic" else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize(target, kind))


def centre_crop(image: npt.NDArray[Any], size: int, margin: Margin = "floor") -> npt.NDArray[Any]:
    """Cut the central [size, size] out of [H, W].

    Args:
        image: no side is shorter than ``size``.
        size: side of the square.
        margin: rounding of half a pixel: ``"floor"`` like Hugging Face's processors, ``"half-even"`` (Python's
            ``round``) like torchvision's ``CenterCrop``.
    """
    import numpy as np

    def before(length: int) -> int:
        return (length - size) // 2 if margin == "floor" else round((length - size) / 2)

    top, left = before(image.shape[0]), before(image.shape[1])
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def pad_to_square(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Resize [H, W] so that the longest side is ``side`` (Lanczos of Pillow) and pad to a square with black bars.

    Like CheXzero's ``preprocess`` (rajpurkarlab/CheXzero, data_process.py): the shorter side and the first bar are
    rounded down.
    """
    import numpy as np
    from PIL import Image

    ratio = side / max(image.shape)
    height, width = (max(1, int(length * ratio)) for length in image.shape)
    small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
    square = np.zeros((side, side), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = small
    return square


def interpolate(image: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Resample a square to [size, size] by bicubic convolution without antialiasing, rounded to grey levels.

    Equals ``torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`` (Keys 1981 with a = -0.75, edges
    repeated), which torchvision's ``Resize`` applies to tensors before version 0.17.
    """
    import numpy as np

    side = len(image)
    position = (np.arange(size) + 0.5) * (side / size) - 0.5
    first = np.floor(position).astype(int)
    share = position - first
    weights = np.zeros((size, side))
    for offset in range(-1, 3):
        x = np.abs(share - offset)
        near = (1.25 * x - 2.25) * x * x + 1
        far = -0.75 * (((x - 5) * x + 8) * x - 4)
        np.add.at(weights, (np.arange(size), np.clip(first + offset, 0, side - 1)), np.where(x <= 1, near, far))
    return np.clip(np.rint(weights @ image @ weights.T), 0, 255).astype(np.uint8)


def to_8_bit(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Scale minimum..maximum of [H, W] to 0..255, rounded half up; a constant image becomes black."""
    import numpy as np

    low, high = float(image.min()), float(image.max())
    if high <= low:
        return np.zeros(image.shape, np.uint8)
    if image.dtype == np.float32:
        return ((image - low) * (255.0 / (high - low)) + 0.5).astype(np.uint8)
    levels = np.arange(int(high) + 1, dtype=np.float64)
    table: npt.NDArray[np.uint8] = np.maximum((levels - low) * (255.0 / (high - low)) + 0.5, 0).astype(np.uint8)
    return table.take(image)


def remap_to_8_bit(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Scale minimum..maximum of [H, W] to 0..255, rounded down; a constant image becomes black.

    Equals ``remap_to_uint8`` of Microsoft's hi-ml-multimodal 0.2.2, the reader of BioViL-T.
    """
    import numpy as np

    low, high = float(image.min()), float(image.max())
    if high <= low:
        return np.zeros(image.shape, np.uint8)
    levels = np.maximum(np.arange(int(high) + 1, dtype=np.float64) - low, 0)
    table: npt.NDArray[np.uint8] = (levels / (high - low) * 255).astype(np.uint8)
    return table.take(image)


def equalize(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Equalise the histogram of [H, W] like OpenCV's ``equalizeHist``: the darkest occupied level maps to 0."""
    import numpy as np

    histogram = np.bincount(image.ravel(), minlength=256)
    first = int(histogram.nonzero()[0][0])
    rest = image.size - int(histogram[first])
    if rest == 0:
        return image
    cumulated = np.cumsum(histogram) - histogram[first]
    scale = np.float32(255.0) / np.float32(rest)
    table: npt.NDArray[np.uint8] = np.rint(np.maximum(cumulated, 0).astype(np.float32) * scale).astype(np.uint8)
    return table.take(image)
