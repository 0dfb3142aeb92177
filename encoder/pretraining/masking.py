"""Block masks of BEiT, which hide patches of global crops from the student, distributed over a batch as in DINOv2."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from encoder.errors import ConfigError
from encoder.pretraining.config import PretrainingConfig, Range
from encoder.pretraining.randomness import Purpose, generator

Mask = npt.NDArray[np.bool_]

_SMALLEST_BLOCK = 4
_ASPECT = (0.3, 1 / 0.3)
_TRIES = 10
_VIEWS = 2
_GROUP = 4
"""Fewest images whose masks are drawn together."""
_MULTIPLE = 64
"""Of the number of masked patches that are computed for one batch; those beyond the masked ones count nothing."""


class MaskedPatches(NamedTuple):
    """The masked patches of a batch's global crops, for the loss.

    Attributes:
        tokens: [M] int64, places in the packed sequence of the global crops, ascending; 0 beyond the masked ones.
        weights: [M] float32, each patch's share of the loss: 1 / (masked patches of its crop x all crops); 0 beyond.
        number: of masked patches, at most M.
    """

    tokens: torch.Tensor
    weights: torch.Tensor
    number: int


def block_mask(rng: np.random.Generator, rows: int, columns: int, target: int) -> Mask:
    """Mask ``target`` patches by rectangles that may overlap.

    A rectangle's area is uniform between 4 patches and what is still to be masked (half of the crop at most), its
    height / width is log-uniform in (0.3, 1 / 0.3). Rectangles are added until ``target`` is reached or ten in a row
    do not fit, so that the count falls short of ``target`` now and then and never exceeds it. At least one patch is
    masked where ``target`` is not 0.

    Returns:
        [rows, columns], True where masked.
    """
    mask = np.zeros((rows, columns), np.bool_)
    left = target
    while left > 0:
        # rows // 2 * columns is DINOv2's bound: its 0.5 * side // patch * side // patch, worked out from the left
        added = _add_block(rng, mask, min(left, rows // 2 * columns))
        if added == 0:
            break
        left -= added
    if target > 0 and not mask.any():
        mask.flat[rng.integers(mask.size)] = True
    return mask


def _add_block(rng: np.random.Generator, mask: Mask, largest: int) -> int:
    """Add one rectangle of at most ``largest`` unmasked patches; returns how many it has, 0 when none fitted."""
    rows, columns = mask.shape
    for _ in range(_TRIES):
        area = rng.uniform(min(_SMALLEST_BLOCK, largest), max(_SMALLEST_BLOCK, largest))
        aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < height < rows and 0 < width < columns):
            continue
        top = rng.integers(0, rows - height, endpoint=True)
        first = rng.integers(0, columns - width, endpoint=True)
        block = mask[top : top + height, first : first + width]
        new = height * width - int(np.count_nonzero(block))
        if 0 < new <= largest:
            block[:] = True
            return new
    return 0


def masked_crops(images: int, probability: float) -> int:
    """Number of masked crops among 2 x ``images`` global crops: ``probability`` of them, rounded down."""
    return int(_VIEWS * images * probability)


def check_masks(config: PretrainingConfig) -> None:
    """Refuse a configuration whose batches are too small for a single masked crop.

    Raises:
        ConfigError: if no crop would be masked although the masked-patch loss has weight.
    """
    if config.loss.ibot == 0:
        return
    images = config.optimization.batch_size
    if masked_crops(images, config.masking.probability) < 1:
        raise ConfigError(
            f"masking.probability = {config.masking.probability:g} masks none of the {_VIEWS * images} global crops"
            f" of a batch of {images}",
            hint=f"raise it to at least {_enough(images)}, or switch masking off with loss.ibot=0",
        )


def _enough(images: int) -> str:
    """The smallest probability of few digits that masks one crop."""
    digits = 2
    while masked_crops(images, share := math.ceil(10**digits / (_VIEWS * images)) / 10**digits) != 1:
        digits += 1
    return f"{share:.{digits}f}"


def mask_group(images: int, probability: float) -> int:
    """Number of images whose masks are drawn together: the smallest of at least 4 that divides a batch evenly.

    Each group masks the same number of crops. The number of masked patches of a process whose images are whole groups
    is therefore nearly the same in every step, and results have one shape.
    """
    count = masked_crops(images, probability)
    sizes = (size for size in range(_GROUP, images) if images % size == 0 and count * size % images == 0)
    return next(sizes, images)


def batch_masks(
    *, seed: int, batch: int, first: int, images: int, part: slice, side: int, probability: float, ratio: Range
) -> Mask:
    """The masks of one part of a batch; all parts together do not depend on their number.

    Of the 2 x ``images`` global crops, ``probability`` are masked, drawn anew for each batch, the same number in each
    group of images (see `mask_group`). The n masked ones of a group are given n target shares, one from each of n equal
    slices of ``ratio``, as DINOv2 does for the images of a GPU; in two neighbouring slices, one lies as far from the
    lower end as the other from the upper end, so that their sum is constant.

    Args:
        seed: of the run.
        batch: number of the batch in the run, for which crops are masked.
        first: draw position of the batch's first image.
        images: of the whole batch, over all processes and accumulated parts.
        part: the images whose masks are wanted, of those.
        side: patches along the side of a global crop.
        probability: share of crops that are masked.
        ratio: smallest and largest share of masked patches.

    Returns:
        [2, images in part, side * side]: views, images, patches row by row.
    """
    size = mask_group(images, probability)
    groups = images // size
    rng = generator(seed, Purpose.MASKED, batch)
    edges = _edges(images, probability, ratio)
    count = len(edges) - 1
    masked = rng.permuted(np.tile(np.arange(_VIEWS * size), (groups, 1)), axis=1)[:, :count]
    shares = rng.random((groups, count))
    shares[:, 1::2] = 1 - shares[:, 0 : count - count % 2 : 2]
    targets = (side * side * (edges[:-1] + shares * np.diff(edges))).astype(int)
    indices = range(images)[part]
    masks = np.zeros((_VIEWS, len(indices), side * side), np.bool_)
    for group in range(groups):
        for crop, target in zip(masked[group].tolist(), targets[group].tolist(), strict=True):
            view, image = divmod(crop, size)
            image += group * size
            if image in indices:
                blocks = generator(seed, Purpose.BLOCKS, _VIEWS * (first + image) + view)
                masks[view, image - indices.start] = block_mask(blocks, side, side, target).ravel()
    return masks


def _edges(images: int, probability: float, ratio: Range) -> npt.NDArray[np.float64]:
    """Ends of the slices of ``ratio`` for the masked crops of a group."""
    count = masked_crops(images, probability) * mask_group(images, probability) // images
    return np.linspace(*ratio, count + 1)


def most_masked(*, images: int, part: int, side: int, probability: float, ratio: Range) -> int | None:
    """Largest number of masked patches of ``part`` of a batch's images; None if they are not whole groups."""
    size = mask_group(images, probability)
    if part % size:
        return None
    edges = _edges(images, probability, ratio)
    pairs = edges[:-2:2] + edges[2::2]  # the two targets of neighbouring slices add up to this
    ends = edges[-1:] if len(edges) % 2 == 0 else edges[:0]
    return part // size * int(sum(math.ceil(side * side * share) for share in [*pairs, *ends]))


def masked_patches(masks: Mask, most: int | None = None) -> MaskedPatches:
    """The masked patches of a batch.

    Args:
        masks: [2, b, N].
        most: number of patches to fill up to, at least; they are filled up to a multiple of 64 in any case.
    """
    crops = masks.reshape(-1, masks.shape[-1])
    crop, patch = crops.nonzero()
    tokens = crop * (1 + crops.shape[1]) + 1 + patch
    weights = 1 / (np.maximum(crops.sum(1), 1)[crop] * float(len(crops)))
    fill = -(-max(len(crop), most or 0) // _MULTIPLE) * _MULTIPLE - len(crop)
    return MaskedPatches(
        torch.from_numpy(np.pad(tokens, (0, fill))),
        torch.from_numpy(np.pad(weights, (0, fill)).astype(np.float32)),
        len(crop),
    )
