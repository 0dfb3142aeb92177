"""Image and mask are changed alike; nothing that has a side is flipped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from encoder.probing.segmentation.data import SegmentationAugmentation, augmented, has_side, may_flip
from tests.encoder.probing.toy import discs

OFF = SegmentationAugmentation(flip=0, affine=0, elastic=0, jitter=0, gamma_chance=0)


def blobs(number: int) -> torch.Tensor:
    """Masks [N, 1, 64, 64] without symmetry."""
    masks = torch.from_numpy(discs(number).masks(range(number)))[:, :1].clone()
    masks[..., 5:12, 20:50] = True
    return masks


def generators(number: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, place)) for place in range(number)]


@pytest.mark.parametrize(
    "config",
    [replace(OFF, flip=1), replace(OFF, affine=1), replace(OFF, elastic=1), SegmentationAugmentation(jitter=0)],
)
def test_a_mask_goes_where_its_image_goes(config: SegmentationAugmentation) -> None:
    masks = blobs(6)
    images = masks[:, 0].to(torch.uint8) * 255
    changed, moved = augmented(images, masks, generators(6), replace(config, gamma_chance=0), flip=True)
    assert not torch.equal(moved, masks) and moved.any()
    # away from grey values that mean one half, both say the same of every pixel
    clear = (changed.int() - 127).abs() > 2
    assert torch.equal((changed > 127)[clear], moved[:, 0][clear]) and clear.float().mean() > 0.95


def test_nothing_changes_where_nothing_is_wanted() -> None:
    images, masks = torch.from_numpy(discs(3).images), blobs(3)
    same, alike = augmented(images, masks, generators(3), OFF, flip=True)
    assert torch.equal(same, images) and torch.equal(alike, masks)


def test_a_flip_is_a_flip_and_only_where_allowed() -> None:
    images, masks = torch.from_numpy(discs(3).images), blobs(3)
    config = replace(OFF, flip=1)
    flipped, mirrored = augmented(images, masks, generators(3), config, flip=True)
    assert torch.equal(flipped, images.flip(-1)) and torch.equal(mirrored, masks.flip(-1))
    same, alike = augmented(images, masks, generators(3), config, flip=False)
    assert torch.equal(same, images) and torch.equal(alike, masks)


def test_allowing_flips_changes_no_other_random_number() -> None:
    images, masks = torch.from_numpy(discs(4).images), blobs(4)
    config = replace(SegmentationAugmentation(), flip=0)
    one = augmented(images, masks, generators(4), config, flip=True)
    other = augmented(images, masks, generators(4), config, flip=False)
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_grey_values_change_and_masks_do_not() -> None:
    images, masks = torch.from_numpy(discs(3).images), blobs(3)
    for config in (replace(OFF, jitter=1), replace(OFF, gamma_chance=1)):
        changed, alike = augmented(images, masks, generators(3), config, flip=True)
        assert not torch.equal(changed, images) and torch.equal(alike, masks)


def test_an_image_depends_on_its_own_generator_alone() -> None:
    images, masks = torch.from_numpy(discs(4).images), blobs(4)
    config = SegmentationAugmentation()
    together = augmented(images, masks, generators(4), config, flip=True)
    alone = augmented(images[2:3], masks[2:3], generators(4)[2:3], config, flip=True)
    assert torch.equal(together[0][2], alone[0][0]) and torch.equal(together[1][2], alone[1][0])


def test_affine_strength_is_what_the_configuration_says() -> None:
    image = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    masks[..., 24:40, 24:40] = True
    config = replace(OFF, affine=1, degrees=0, shear=0, zoom=(1, 1), shift=0.25)
    centres = []
    for seed in range(40):
        _, moved = augmented(image, masks, generators(1, seed), config, flip=False)
        centres.append(moved[0, 0].nonzero().float().mean(0).numpy() - 31.5)
    largest = np.abs(centres).max()
    assert 12 < largest <= 16.5  # a quarter of 64 pixels
    config = replace(OFF, affine=1, degrees=0, shear=0, shift=0, zoom=(2, 2))
    _, moved = augmented(image, masks, generators(1), config, flip=False)
    assert int(moved.sum()) == pytest.approx(4 * 256, rel=0.05)


@pytest.mark.parametrize(
    ("structure", "sided"),
    [
        ("left lung", True), ("Right_Lung", True), ("left upper lung zone", True), ("lung zones", True), ("L3", True),
        ("r10", True), ("lungs", False), ("pneumothorax", False), ("chest tubes", False), ("ribs", False),
        ("bright spot", False), ("cleft", False),
    ],
)  # fmt: skip
def test_what_has_a_side(structure: str, sided: bool) -> None:
    assert has_side(structure) is sided
    assert may_flip(["heart", structure]) is not sided
