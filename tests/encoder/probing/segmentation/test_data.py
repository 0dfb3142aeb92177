"""Masks that travel with their images, and subjects that stand in one split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.datasets.manifest import Row
from encoder.errors import LlavaRadError
from encoder.preprocessing import rad_dino
from encoder.probing.segmentation.data import SegmentationSet, by_split, read_segmentation_set


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
