"""Dice by hand and against other implementations, and groups of patients."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from encoder.probing.segmentation.evaluate import DiceScore, GroupScores, dice

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
