"""Run lengths, outlines, boxes and the parting of two lungs, on examples counted out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from encoder.datasets.mask_decoding import from_boxes, from_outline, from_runs, sides
from encoder.errors import LlavaRadError


def pixels(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(row, column) of what is inside."""
    return [(int(row), int(column)) for row, column in zip(*np.nonzero(mask), strict=True)]


def test_runs_go_down_the_columns_and_count_from_the_last_end() -> None:
    # 3 rows, 4 columns: pixel 0 is (0, 0), 1 is (1, 0), 3 is (0, 1). One pixel skipped, two set, two skipped, three set
    mask = from_runs("1 2 2 3", (3, 4))
    assert mask.shape == (3, 4)
    assert pixels(mask) == [(0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert pixels(from_runs("0 1", (3, 4))) == [(0, 0)]
    assert pixels(from_runs("11 1", (3, 4))) == [(2, 3)]
    assert not from_runs("-1", (3, 4)).any()
    assert from_runs("0 12", (3, 4)).all()


@pytest.mark.parametrize(
    "text", ["", "3", "1 2 3", "1 -2", "a b", "1.5 2", "11 2", "0 13", "9999999999 1", "-1 -1", "-1 2"]
)
def test_damaged_runs_are_refused(text: str) -> None:
    with pytest.raises(LlavaRadError, match="run lengths are damaged"):
        from_runs(text, (3, 4))


def test_outlines() -> None:
    mask = from_outline([(2, 1), (5, 1), (5, 3), (2, 3)], (6, 8))
    assert pixels(mask) == [(row, column) for row in (1, 2, 3) for column in (2, 3, 4, 5)], "with its edge"
    assert from_outline([(-3, -3), (20, -3), (20, 20), (-3, 20)], (12, 12)).all()
    for points in ([], [(1, 1), (2, 2)], [(1, 1), (2, 2), (float("nan"), 3)], [(1, 1), (2, 2), (1e9, 3)]):
        with pytest.raises(LlavaRadError, match="outline is damaged"):
            from_outline(points, (6, 8))


def test_boxes() -> None:
    assert pixels(from_boxes([(1, 0, 3, 2)], (4, 5))) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert pixels(from_boxes([(1.4, 0, 2.6, 1)], (4, 5))) == [(0, 1), (0, 2)], "centres at 1.5 and 2.5"
    assert pixels(from_boxes([(1.6, 0, 2.4, 1)], (4, 5))) == []
    assert pixels(from_boxes([(-2, -2, 1, 1), (4, 3, 9, 9)], (4, 5))) == [(0, 0), (3, 4)]
    for box in ((1, 1, 1, 2), (3, 1, 1, 2), (0, float("nan"), 1, 1), (0, 0, float("inf"), 1)):
        with pytest.raises(LlavaRadError, match="box is damaged"):
            from_boxes([box], (4, 5))


def lungs(tilt: float = 0.0) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two ellipses, (image left, image right), turned by some degrees about the image's middle."""
    y, x = np.mgrid[:300, :260] - np.array([150, 130])[:, None, None]
    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    across, down = x * c + y * s, y * c - x * s
    one, other = (((across - place) / 42) ** 2 + (down / 110) ** 2 < 1 for place in (-55, 48))
    return one, other


@pytest.mark.parametrize("tilt", [0, 6, -11])
def test_the_left_lung_is_at_image_right(tilt: float) -> None:
    at_left, at_right = lungs(tilt)
    parted = sides(at_left | at_right)
    assert parted is not None
    assert (parted[0] == at_right).all(), "the patient's left"
    assert (parted[1] == at_left).all()


def test_masks_that_no_line_parts() -> None:
    at_left, at_right = lungs()
    joined = at_left | at_right
    joined[140:150] |= np.abs(np.arange(260) - 130) < 100
    assert sides(joined) is not None, "they touch"
    joined[100:200] |= np.abs(np.arange(260) - 130) < 100
    assert sides(joined) is None
    assert sides(at_left) is None, "one lung"
    assert sides(np.zeros((300, 260), np.bool_)) is None


def test_real_lungs_part_as_their_connected_parts_do(shared_dir: Path) -> None:
    """SciPy's components are the oracle: the larger two are the lungs."""
    ndimage = pytest.importorskip("scipy.ndimage")
    folders = ("shenzhen_montgomery_tb", "covid_chestxray")
    files = [file for name in folders for file in sorted((shared_dir / "data" / name / "lung_masks").glob("*.png"))]
    assert len(files) == 603 + 131
    for file in files[::9]:
        mask = np.asarray(Image.open(file)) != 0
        labels, count = ndimage.label(mask)
        one, other = sorted(range(1, count + 1), key=lambda label: -(labels == label).sum())[:2]
        if np.nonzero(labels == one)[1].mean() < np.nonzero(labels == other)[1].mean():
            one, other = other, one
        parted = sides(mask)
        assert parted is not None
        assert not (parted[0] & (labels == other)).any()
        assert not (parted[1] & (labels == one)).any()
