"""Dice by hand and against other implementations, groups of patients, and overlays."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from encoder.errors import LlavaRadError
from encoder.probing.segmentation.evaluate import (
    BOTH,
    PREDICTION,
    TRUTH,
    DiceScore,
    GroupScores,
    dice,
    edge,
    overlay,
    overlay_sheet,
    write_png,
)

NAN = math.nan


def masks(*pictures: str) -> np.ndarray:
    return np.array([[[letter == "x" for letter in row] for row in picture.split()] for picture in pictures])


def test_by_hand() -> None:
    truth = masks("xx.. xx..", "xxxx ....", "x... ....")
    found = masks("x... xxx.", "xxxx ....", "...x ....")
    np.testing.assert_allclose(dice(found, truth), [2 * 3 / (4 + 4), 1, 0])
    np.testing.assert_allclose(dice(truth, found), dice(found, truth))


def test_empty_masks() -> None:
    nothing, one = masks(".. .."), masks("x. ..")
    assert np.isnan(dice(nothing, nothing)).all()
    assert dice(one, nothing).tolist() == [0] and dice(nothing, one).tolist() == [0]


def test_masks_of_more_pixels_than_a_byte_counts() -> None:
    whole = np.ones((1, 300, 300), np.bool_)
    half = whole.copy()
    half[:, 150:] = False
    assert dice(half, whole)[0] == pytest.approx(2 / 3)


def test_mean_and_standard_deviation() -> None:
    score = DiceScore.of(np.array([0.5, NAN, 0.7, 0.9]))
    assert score.mean == pytest.approx(0.7) and score.sd == pytest.approx(0.2) and score.images == 3
    assert DiceScore.of(np.array([0.5, NAN])).to_dict() == {"mean": 0.5, "sd": None, "images": 1}
    assert json.dumps(DiceScore.of(np.array([NAN])).to_dict()) == '{"mean": null, "sd": null, "images": 0}'


def test_worst_group() -> None:
    values = np.array([0.9, 0.8, 0.5, 0.7, NAN, 0.1])
    scores = GroupScores.of(values, ["a", "a", "b", "b", "c", ""], 2)
    assert scores.worst == "b" and scores.worst_mean == pytest.approx(0.6)
    assert scores.mean == pytest.approx((0.9 + 0.8 + 0.5 + 0.7) / 4)
    assert {name: score.images for name, score in scores.groups.items()} == {"a": 2, "b": 2, "c": 0}
    data = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert data["worst_group"] == "b" and data["groups"]["c"]["mean"] is None


def test_nobody_in_a_group() -> None:
    data = GroupScores.of(np.array([0.5]), [""]).to_dict()
    assert data == {"mean": None, "worst_group": None, "worst_mean": None, "minimum": 30, "groups": {}}


def test_a_small_group_is_never_the_worst_and_one_group_alone_neither() -> None:
    values = np.concatenate([np.full(40, 0.9), np.full(35, 0.8), np.full(29, 0.1), np.full(30, NAN)])
    groups = ["a"] * 40 + ["b"] * 35 + ["c"] * 29 + ["d"] * 30
    scores = GroupScores.of(values, groups)
    assert scores.worst == "b" and scores.groups["c"].mean == pytest.approx(0.1)
    assert GroupScores.of(values, groups, 29).worst == "c"
    assert GroupScores.of(values, groups, 36).worst == "", "only one group is large enough"


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
