"""Block masks: DINOv2's statistics, lightly's blocks, the same parts however a batch is divided."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import stats

from encoder.errors import ConfigError
from encoder.pretraining.config import MaskingConfig, OptimizationConfig, PretrainingConfig
from encoder.pretraining.masking import (
    Mask,
    batch_masks,
    block_mask,
    check_masks,
    mask_group,
    masked_crops,
    masked_patches,
    most_masked,
)

SIDE = 37
SIGNIFICANT = 1e-4


def masks_of(images: int, *, seed: int = 0, batch: int = 0, part: slice = slice(None), side: int = SIDE) -> Mask:
    return batch_masks(
        seed=seed,
        batch=batch,
        first=batch * images,
        images=images,
        part=part,
        side=side,
        probability=0.5,
        ratio=(0.1, 0.5),
    )


def borders(mask: Mask) -> int:
    """Neighbours of which one is masked."""
    return int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())


def test_counts_and_ratios_are_dinov2s() -> None:
    """Measured on DINOv2's code at 37 x 37: half of the crops masked, 0.2997 of each on average, 0.100 to 0.500."""
    counts = np.stack([masks_of(40, batch=batch).sum(-1) for batch in range(50)])  # [50, 2, 40]
    assert ((counts > 0).sum((1, 2)) == 40).all()
    ratios = counts[counts > 0] / SIDE**2
    # the mean of int(1369 u), u uniform in 0.1 to 0.5, less the patches that no block reached
    assert ratios.mean() == pytest.approx(0.2997, abs=4e-4)
    # int() and what no block reached take a few patches off 0.1 and 0.5
    assert 0.1 - 3 / SIDE**2 <= ratios.min() <= 0.101 and 0.499 - 10 / SIDE**2 <= ratios.max() <= 0.5


def test_ratios_are_spread_over_each_group() -> None:
    """Of 4 masked crops in 4 images, the n-th by count aims at the n-th quarter of 0.1 to 0.5."""
    edges = np.linspace(0.1, 0.5, 5) * SIDE**2
    for batch in range(20):
        for part in (slice(0, 4), slice(4, 8)):
            counts = np.sort(masks_of(8, batch=batch, part=part).sum(-1).ravel())
            assert not counts[:4].any()
            assert (counts[4:] <= edges[1:]).all() and (counts[4:] >= edges[:-1] - 12).all()


@pytest.mark.parametrize(("images", "probability", "group"), [(640, 0.5, 4), (50, 0.5, 5), (6, 0.5, 6), (640, 0.3, 5)])
def test_masks_are_drawn_by_groups_that_divide_the_batch(images: int, probability: float, group: int) -> None:
    """By hand: the smallest size from 4 on that leaves whole images and whole masked crops, of 2 x 0.3 an image."""
    assert mask_group(images, probability) == group


@pytest.mark.parametrize("part", [4, 8, 16])
def test_processes_of_whole_groups_mask_as_many_patches_in_every_step(part: int) -> None:
    """By hand: each pair of neighbouring quarters of 0.1 to 0.5 of 1369 patches adds up to 0.4 x 1369, then 0.8 x."""
    most = most_masked(images=16, part=part, side=SIDE, probability=0.5, ratio=(0.1, 0.5))
    assert most == part // 4 * (math.ceil(0.4 * 1369) + math.ceil(0.8 * 1369))
    for batch in range(30):
        for start in range(0, 16, part):
            masks = masks_of(16, batch=batch, part=slice(start, start + part))
            assert most - part * 3 <= masks.sum() <= most  # what no block reached
            assert len(masked_patches(masks, most).tokens) == math.ceil(most / 64) * 64


def test_parts_of_groups_have_no_fixed_number() -> None:
    assert most_masked(images=16, part=2, side=SIDE, probability=0.5, ratio=(0.1, 0.5)) is None


def test_masked_patches_by_hand() -> None:
    """Two crops of 2 x 2 patches: tokens are CLS and 4 patches for each crop; a crop's patches share 1 / 4 crops."""
    masks = np.zeros((2, 2, 4), np.bool_)
    masks[0, 1, [0, 3]] = masks[1, 1, 2] = True
    tokens, weights, number = masked_patches(masks)
    assert number == 3 and len(tokens) == len(weights) == 64
    assert tokens[:3].tolist() == [5 + 1, 5 + 4, 15 + 3] and not tokens[3:].any()
    assert weights[:3].tolist() == [1 / 8, 1 / 8, 1 / 4] and not weights[3:].any()
    assert len(masked_patches(np.zeros((2, 2, 4), np.bool_)).tokens) == 0


def test_which_crops_and_how_much_changes_with_every_batch() -> None:
    masked = np.stack([masks_of(8, batch=batch).sum(-1) for batch in range(400)])  # [400, 2, 8]
    share = (masked > 0).mean(0)
    assert np.abs(share - 0.5).max() < 4.5 * (0.25 / 400) ** 0.5  # every crop half of the time: 4.5 deviations
    assert len({tuple(row) for row in (masked > 0).reshape(400, -1).tolist()}) > 300  # of 12,870
    first = masked[:, 0, 0][masked[:, 0, 0] > 0] / SIDE**2
    assert stats.kstest(first, stats.uniform(0.1, 0.4).cdf).pvalue > SIGNIFICANT


@pytest.mark.parametrize("target", [1, 4, 136, 410, 684, 1200])
def test_blocks_are_lightlys(target: int) -> None:
    """Same distribution of masked patches and of their borders, and so of the blocks' shapes; 666 = 37 // 2 * 37."""
    lightly = pytest.importorskip("lightly.models.utils", reason="lightly is in the test group")
    random.seed(0)
    rng, draws = np.random.default_rng(0), 600
    ours = [block_mask(rng, SIDE, SIDE, target) for _ in range(draws)]
    theirs = [
        lightly.random_block_mask_image((SIDE, SIDE), num_masks=target, max_num_masks_per_block=666).numpy()
        for _ in range(draws)
    ]
    theirs = [mask for mask in theirs if mask.any()]  # ours has one patch where no block fitted
    reached = [np.mean([mask.sum() == target for mask in masks]) for masks in (ours, theirs)]
    assert abs(reached[0] - reached[1]) < 0.07
    for measure in (np.sum, borders):
        values = [[int(measure(mask)) for mask in masks] for masks in (ours, theirs)]
        assert stats.ks_2samp(*values, method="asymp").pvalue > SIGNIFICANT
    # the same number of patches strewn one by one has many more borders
    if 4 < target < 1000:
        strewn = rng.permutation(np.arange(SIDE**2) < target).reshape(SIDE, SIDE)
        assert max(borders(mask) for mask in ours) < borders(strewn) / 1.5


def test_the_target_is_never_exceeded_and_mostly_reached() -> None:
    rng = np.random.default_rng(0)
    short = []
    for _ in range(2000):
        rows, columns = rng.integers(1, 20, 2)
        target = int(rng.integers(0, rows * columns, endpoint=True))
        count = int(block_mask(rng, rows, columns, target).sum())
        assert min(target, 1) <= count <= target
        if min(rows, columns) > 8 and target <= rows * columns / 2:
            short.append(target - count)
    assert np.mean(np.array(short) == 0) > 0.7 and np.mean(short) < 0.5
    assert not block_mask(rng, SIDE, SIDE, 0).any()


def test_masks_follow_from_seed_and_batch() -> None:
    one = masks_of(8, seed=1, batch=3)
    assert one.shape == (2, 8, SIDE**2) and one.dtype == np.bool_
    assert np.array_equal(one, masks_of(8, seed=1, batch=3))
    assert not np.array_equal(one, masks_of(8, seed=2, batch=3))
    assert not np.array_equal(one, masks_of(8, seed=1, batch=4))


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_parts_are_the_whole(parts: int) -> None:
    size = 8 // parts
    pieces = [masks_of(8, batch=5, part=slice(start, start + size)) for start in range(0, 8, size)]
    assert np.array_equal(np.concatenate(pieces, axis=1), masks_of(8, batch=5))


def test_nothing_is_masked_at_probability_0_and_everything_at_1() -> None:
    arguments = {"seed": 0, "batch": 0, "first": 0, "images": 3, "part": slice(None), "side": SIDE}
    assert not batch_masks(**arguments, probability=0.0, ratio=(0.1, 0.5)).any()  # type: ignore[arg-type]
    every = batch_masks(**arguments, probability=1.0, ratio=(0.25, 0.25)).sum(-1)  # type: ignore[arg-type]
    assert (every <= 342).all() and (every >= 330).all()  # int(0.25 * 1369)


@pytest.mark.parametrize(
    ("images", "probability", "expected"), [(1, 0.5, 1), (3, 0.5, 3), (5, 0.25, 2), (640, 0.5, 640)]
)
def test_masked_crops_are_rounded_down(images: int, probability: float, expected: int) -> None:
    assert masked_crops(images, probability) == expected


@pytest.mark.parametrize("images", [2, 3, 6, 7, 50, 640, 2560])
def test_batches_too_small_for_a_mask_are_refused(images: int) -> None:
    def config(probability: float, ibot: float = 1.0, accumulation: int = 1) -> PretrainingConfig:
        return PretrainingConfig(
            masking=MaskingConfig(probability=probability),
            optimization=OptimizationConfig(batch_size=images, accumulation=accumulation),
            loss=PretrainingConfig().loss.model_copy(update={"ibot": ibot}),
        )

    too_low = 0.99 / (2 * images)
    with pytest.raises(ConfigError, match=f"masks none of the {2 * images} global crops") as error:
        check_masks(config(too_low))
    assert error.value.hint is not None
    suggested = float(error.value.hint.removeprefix("raise it to at least ").split(",")[0])
    check_masks(config(suggested))
    assert masked_crops(images, suggested) == 1
    check_masks(config(too_low, ibot=0))
    check_masks(config(1 / images, accumulation=images))  # the masks are those of the whole step
