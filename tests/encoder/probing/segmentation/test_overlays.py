"""Overlays of masks: colours, outlines, and sheets on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoder.errors import LlavaRadError
from encoder.probing.segmentation.overlays import BOTH, PREDICTION, TRUTH, edge, overlay, overlay_sheet, write_png


def square(left: int, right: int) -> np.ndarray:
    mask = np.zeros((40, 40), np.bool_)
    mask[10:30, left:right] = True
    return mask


def test_areas() -> None:
    image = np.full((40, 40), 100, np.uint8)
    picture = overlay(image, square(5, 20), square(15, 30), strength=1.0)
    assert picture[20, 8].tolist() == list(TRUTH)
    assert picture[20, 25].tolist() == list(PREDICTION)
    assert picture[20, 17].tolist() == list(BOTH)
    assert picture[2, 2].tolist() == [100, 100, 100]
    faint = overlay(image, square(5, 20), None, strength=0.5)
    assert faint[20, 8].tolist() == [50, 152, 50] and faint[20, 25].tolist() == [100, 100, 100]


def test_outlines_leave_the_inside() -> None:
    picture = overlay(np.full((40, 40), 100, np.uint8), square(5, 20), square(15, 30), style="outline")
    assert picture[20, 10].tolist() == [100, 100, 100] and picture[20, 5].tolist() == list(TRUTH)
    assert picture[20, 29].tolist() == list(PREDICTION) and picture[10, 17].tolist() == list(BOTH)


def test_the_edge_of_a_mask() -> None:
    mask = square(5, 20)
    assert int(edge(mask).sum()) == 20 * 15 - 18 * 13
    assert not edge(np.ones((9, 9), np.bool_)).any()


def test_a_sheet_on_disk(tmp_path: Path) -> None:
    from PIL import Image

    images = np.zeros((3, 40, 40), np.uint8)
    masks = np.repeat(square(5, 20)[None, None], 3, 0).repeat(2, 1)
    page = overlay_sheet(images, masks, ~masks)
    assert page.shape == (3 * 44 - 4, 3 * 44 - 4, 3)
    write_png(page, tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), page)
    with pytest.raises(LlavaRadError, match="written"):
        write_png(page, tmp_path / "none" / "a.png")
    with pytest.raises(LlavaRadError, match="size"):
        overlay(images[0], square(5, 20)[:20], None)
