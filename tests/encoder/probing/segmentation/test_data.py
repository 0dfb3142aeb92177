"""Images with masks: packing, reading, splits by subject, and augmentation of both alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from encoder.datasets.manifest import Row
from encoder.errors import LlavaRadError
from encoder.preprocessing import rad_dino
from encoder.probing.segmentation.augmentation import SegmentationAugmentation, augmented, has_side, may_flip
from encoder.probing.segmentation.data import SegmentationSet, by_split, read_segmentation_set
from tests.encoder.probing.toy import discs


def test_masks_come_back_as_they_went_in() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((4, 2, 13, 13)) < 0.5  # 169 pixels are no multiple of 8
    data = SegmentationSet.of(np.zeros((4, 13, 13), np.uint8), masks, ("a", "b"))
    np.testing.assert_array_equal(data.masks([2, 0]), masks[[2, 0]])
    np.testing.assert_array_equal(data.subset([3]).masks([0]), masks[[3]])
    np.testing.assert_array_equal(data.select(["b"]).masks([1]), masks[[1]][:, [1]])
    assert data.fingerprint() != data.subset([1, 0, 2, 3]).fingerprint() != data.select(["b"]).fingerprint()
    for bad in (["c"], ["a", "a"], []):
        with pytest.raises(LlavaRadError):
            data.select(bad)
    with pytest.raises(LlavaRadError):
        SegmentationSet.of(np.zeros((4, 13, 14), np.uint8), masks, ("a", "b"))


def picture(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_images_and_masks_are_read_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(2):
        grey = rng.integers(0, 60, (150, 200)).astype(np.uint8)
        mask = np.zeros((150, 200), np.uint8)
        mask[40 + 20 * number : 90, 70:130] = 255
        grey[mask > 0] += 150
        masks = {"box": picture(tmp_path / f"m{number}.png", mask)}
        image = picture(tmp_path / f"i{number}.png", grey)
        rows.append(Row(image, "toy", str(number), number=number + 1, masks=masks if number == 0 else {}))
    seen: list[int] = []
    data = read_segmentation_set(rows, rad_dino(112), ("box",), progress=seen.append)
    assert data.images.shape == (2, 112, 112) and seen == [1, 1] and data.known.tolist() == [[True], [False]]
    bright = data.images[0] > 128
    assert (bright == data.masks([0])[0, 0]).mean() > 0.98
    empty = read_segmentation_set(rows, rad_dino(112), ("box",), missing="empty")
    assert empty.known.all() and not empty.masks([1]).any()
    with pytest.raises(LlavaRadError, match="no image has a mask of 'rib'"):
        read_segmentation_set(rows, rad_dino(112), ("rib",))
    (tmp_path / "m0.png").write_bytes(b"no")
    with pytest.raises(LlavaRadError, match="row 1"):
        read_segmentation_set(rows, rad_dino(112), ("box",))


def test_squashed_images_and_their_masks_are_stretched_alike(tmp_path: Path) -> None:
    """Stretching restores a squashed image and its mask, but for their resolution."""
    rows, columns = np.mgrid[:160, :240]
    mask = np.hypot(rows - 70, columns - 110) < 50
    true = picture(tmp_path / "true.png", np.where(mask, 200, 40).astype(np.uint8))
    masks = {"disc": picture(tmp_path / "mask.png", mask.astype(np.uint8))}
    with Image.open(true) as image:
        squashed = picture(tmp_path / "squashed.png", np.asarray(image.resize((160, 160))))
    low = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((160, 160), Image.Resampling.NEAREST))
    small, aspect = {"disc": picture(tmp_path / "small.png", low)}, {"aspect": "1.5"}
    found = []
    for path, drawn, facts in ((true, masks, {}), (squashed, small, aspect), (squashed, masks, aspect)):
        found.append(read_segmentation_set([Row(path, masks=drawn, attributes=facts)], rad_dino(112), ("disc",)))
    for other in found[1:]:
        difference = np.abs(other.images[0].astype(int) - found[0].images[0])
        assert difference.mean() < 5, "bicubic overshoot, scaled to 0..255"
        assert (other.masks([0]) == found[0].masks([0])).mean() > 0.98
    left = read_segmentation_set([Row(squashed, masks=small)], rad_dino(112), ("disc",))
    assert (left.masks([0]) == found[0].masks([0])).mean() < 0.9
    with pytest.raises(LlavaRadError, match="another aspect"):
        read_segmentation_set([Row(squashed, masks=masks)], rad_dino(112), ("disc",))


def row(number: int, subject: str, split: str) -> Row:
    return Row(Path(f"/{number}.png"), "toy", subject, split=split, number=number)


def test_the_manifests_split_is_taken() -> None:
    rows = [row(1, "a", "train"), row(2, "b", "val"), row(3, "c", "test"), row(4, "a", "train"), row(5, "d", "")]
    assert [[one.number for one in part] for part in by_split(rows)] == [[1, 4], [2], [3]]
    with pytest.raises(LlavaRadError, match="more than one split"):
        by_split([*rows, row(6, "a", "test")])
    with pytest.raises(LlavaRadError, match="split test"):
        by_split(rows[:2])


def test_training_subjects_validate_where_nobody_else_does() -> None:
    rows = [row(number, str(number % 85), "train") for number in range(170)] + [row(200, "t", "test")]
    train, val, test = by_split(rows)
    assert (len(train), len(val), len(test)) == (140, 30, 1)
    assert not {one.subject for one in train} & {one.subject for one in val}


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
