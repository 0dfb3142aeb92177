"""Block masks of BEiT, which hide patches of global crops from the student, distributed over a batch as in DINOv2."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from encoder.errors import ConfigError
from encoder.pretraining.config import PretrainingConfig, Range
from encoder.pretraining.randomness import Purpose, generator

Mask = npt.NDArray[np.bool_]

_SMALLEST_BLOCK = 4
_ASPECT = (0.3, 1 / 0.3)
_TRIES = 10
_VIEWS = 2


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


def batch_masks(
    *, seed: int, batch: int, first: int, images: int, part: slice, side: int, probability: float, ratio: Range
) -> Mask:
    """The masks of one part of a batch; all parts together do not depend on their number.

    Of the 2 x ``images`` global crops, ``probability`` are masked, drawn anew for each batch. The n masked ones are
    given n target shares, one from each of n equal slices of ``ratio``, as DINOv2 does.

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
    count = masked_crops(images, probability)
    edges = np.linspace(*ratio, count + 1)
    masked = generator(seed, Purpose.MASKED, batch).permutation(_VIEWS * images)[:count]
    indices = range(images)[part]
    masks = np.zeros((_VIEWS, len(indices), side * side), np.bool_)
    for piece, crop in enumerate(masked.tolist()):
        view, image = divmod(crop, images)
        if image not in indices:
            continue
        rng = generator(seed, Purpose.BLOCKS, _VIEWS * (first + image) + view)
        target = int(side * side * rng.uniform(edges[piece], edges[piece + 1]))
        masks[view, image - indices.start] = block_mask(rng, side, side, target).ravel()
    return masks
