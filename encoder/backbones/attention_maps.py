"""Attention maps and similarity maps of an encoder over its patch grid, and their rendering.

Maps are tensors; pictures are arrays [H, W, 3] uint8, which ``png`` encodes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from encoder.backbones.base import FrozenEncoder
from encoder.backbones.dinov2 import RadDino
from encoder.errors import ConfigError, LlavaRadError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Picture = npt.NDArray[np.uint8]

_COLOURS = ((0, 0, 0), (58, 12, 92), (140, 30, 112), (205, 65, 72), (245, 130, 32), (250, 200, 70), (255, 255, 205))
"""Evenly spaced colours from low to high; brightness increases, also in grey and for colour-blind readers."""
_CIRCLE = (0, 220, 255)


def cls_attention(encoder: FrozenEncoder, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return the attention of the CLS token to each patch in the last layer, by head (paper C.4.1, figure C.3).

    ``softmax(q k / sqrt(d))`` of the CLS token's query over all keys, without the weight of the CLS token itself: a
    head's map sums to less than 1.

    Args:
        encoder: a DINOv2-style encoder.
        pixel_values: [B, 3, S, S] normalised images.

    Returns:
        [B, heads, side, side] float32.

    Raises:
        ConfigError: if the encoder is of another family.
    """
    if not isinstance(encoder, RadDino):
        raise ConfigError(f"attention maps need a DINOv2-style encoder; this one is a {type(encoder).__name__}")
    block: Any = encoder.taps().blocks[-1]
    kept: list[torch.Tensor] = []
    hook = block.norm1.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        encoder(pixel_values)
    finally:
        hook.remove()
    (hidden,) = kept
    # attention.q_proj in transformers 5, attention.attention.query before
    layer = block.attention
    query, key = (
        (layer.q_proj, layer.k_proj) if hasattr(layer, "q_proj") else (layer.attention.query, layer.attention.key)
    )
    heads = int(encoder.model.config.num_attention_heads)
    with torch.no_grad():
        queries = query(hidden[:, :1]).unflatten(-1, (heads, -1)).transpose(1, 2).float()
        keys = key(hidden).unflatten(-1, (heads, -1)).transpose(1, 2).float()
        weights = torch.softmax(queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5, dim=-1)[..., 0, 1:]
    return torch.unflatten(weights, -1, _square(weights.shape[-1]))


def correspondence(features_a: torch.Tensor, features_b: torch.Tensor, query: tuple[int, int]) -> torch.Tensor:
    """Return the cosine similarity of one patch of image A to all patches of image B (paper figure 2, C.5).

    Args:
        features_a: [N, D], ``Features.patches`` of one image.
        features_b: [M, D], of the same or another image.
        query: row and column of the patch in A's grid, from 0; see ``cell_at``.

    Returns:
        [side, side] on B's grid, -1 to 1, float32.

    Raises:
        LlavaRadError: if the query lies outside of the grid, or the vectors differ in length.
    """
    rows, columns = _square(len(features_a))
    row, column = query
    if not (0 <= row < rows and 0 <= column < columns):
        raise LlavaRadError(f"the patch in row {row}, column {column} lies outside of a {rows} x {columns} grid")
    if features_a.shape[-1] != features_b.shape[-1]:
        raise LlavaRadError("patches of different encoders cannot be compared")
    one = functional.normalize(features_a[row * columns + column].float(), dim=0)
    cosines = functional.normalize(features_b.float(), dim=1) @ one
    return torch.unflatten(cosines, 0, _square(len(features_b)))


def cell_at(x: float, y: float, size: int, side: int) -> tuple[int, int]:
    """Return row and column of the patch that contains a point.

    Args:
        x: pixels from the left edge of the square image, 0 <= x < size.
        y: pixels from its top edge, 0 <= y < size.
        size: side of the image in pixels.
        side: patches on a side.

    Raises:
        LlavaRadError: if the point lies outside of the image.
    """
    if not (0 <= x < size and 0 <= y < size):
        raise LlavaRadError("the point lies outside of the image")
    return int(y * side / size), int(x * side / size)


def coloured(values: npt.NDArray[np.floating], low: float | None = None, high: float | None = None) -> Picture:
    """Colour a map, from black through red to pale yellow.

    Args:
        values: [h, w].
        low: value shown black; default: the minimum.
        high: value shown brightest; default: the maximum.

    Returns:
        [h, w, 3].
    """
    import numpy as np

    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    position = np.clip((values - low) / max(high - low, 1e-12), 0, 1) * (len(_COLOURS) - 1)
    table = np.array(_COLOURS, dtype=np.float64)
    stops = np.arange(len(table))
    channels = [np.interp(position, stops, table[:, channel]) for channel in range(3)]
    colours: Picture = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return colours


def heat_map(
    image: npt.NDArray[np.uint8],
    values: npt.NDArray[np.floating],
    *,
    strength: float = 0.6,
    low: float | None = None,
    high: float | None = None,
) -> Picture:
    """Blend the colours of a map over its grey image, with an opacity that increases with the value.

    Args:
        image: [S, S] uint8.
        values: [side, side], resized bilinearly to the image.
        strength: opacity of the highest value, 0 to 1.
        low: as for ``coloured``.
        high: as for ``coloured``; pass both to compare maps.

    Returns:
        [S, S, 3].
    """
    import numpy as np
    from PIL import Image

    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    size = (image.shape[1], image.shape[0])
    smooth = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    opacity = strength * np.clip((smooth - low) / max(high - low, 1e-12), 0, 1)[..., None]
    mixed = grey(image) * (1 - opacity) + coloured(smooth, low, high) * opacity
    return np.rint(mixed).astype(np.uint8)


def top_range(values: npt.NDArray[np.floating], share: float = 0.1) -> tuple[float, float]:
    """Return ``low`` and ``high`` for ``heat_map`` that colour only the highest part of a map.

    Cosines between patches of chest radiographs are all high, so that their whole range would colour everything.

    Args:
        values: [h, w].
        share: fraction of the cells to colour.
    """
    import numpy as np

    return float(np.quantile(values, 1 - share)), float(values.max())


def grey(image: npt.NDArray[np.uint8]) -> Picture:
    """Repeat a grey image [H, W] to a picture [H, W, 3]."""
    import numpy as np

    return np.repeat(image[..., None], 3, axis=-1)


def circled(picture: Picture, cell: tuple[int, int], side: int) -> Picture:
    """Return a copy in which a patch is circled, the paper's mark of a query.

    Args:
        picture: [S, S, 3].
        cell: row and column of the patch.
        side: patches on a side.
    """
    import numpy as np

    size = len(picture)
    patch = size / side
    y, x = ((index + 0.5) * patch for index in cell)
    rows, columns = np.mgrid[:size, :size] + 0.5
    distance = np.hypot(rows - y, columns - x)
    marked = picture.copy()
    marked[np.abs(distance - max(patch, 4.0)) < max(1.0, size / 250)] = _CIRCLE
    return marked


def sheet(pictures: Sequence[Picture], columns: int, *, gap: int = 4) -> Picture:
    """Arrange pictures of one size in rows on white.

    Args:
        pictures: at least one, [H, W, 3] each.
        columns: pictures in a row.
        gap: pixels between pictures.

    Raises:
        LlavaRadError: if there are none, or they differ in size.
    """
    import numpy as np

    if not pictures or columns < 1 or len({one.shape for one in pictures}) > 1:
        raise LlavaRadError("a sheet takes pictures of one size")
    height, width, _ = pictures[0].shape
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    page = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for number, one in enumerate(pictures):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        page[top : top + height, left : left + width] = one
    return page


def png(picture: Picture) -> bytes:
    """Encode a picture, [H, W, 3] or grey [H, W], as PNG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def _square(patches: int) -> tuple[int, int]:
    side = round(patches**0.5)
    if side * side != patches or not side:
        raise LlavaRadError(f"{patches} patches make no square")
    return side, side
