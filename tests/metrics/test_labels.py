"""F1 of labels against golden values and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support

from metrics.base import InputError
from metrics.labels import CLASSES, TOP_5, Uncertain, label_f1


@pytest.mark.parametrize("uncertain", ["negative", "positive"])
@pytest.mark.parametrize(("absent", "key"), [(0.0, "zd0"), (1.0, "zd1"), (float("nan"), "zdnan")])
def test_golden_values(golden: dict[str, Any], uncertain: Uncertain, absent: float, key: str) -> None:
    labels, expected = golden["chexbert"], golden["chexbert"][f"uncertain_{uncertain}"]
    end = "+" if uncertain == "positive" else ""
    found = label_f1(labels["hyp"], labels["ref"], uncertain=uncertain, absent=absent).point()
    assert found[f"macro_f1_14{end}"] == pytest.approx(expected[f"macro14_{key}"], abs=1e-12)
    assert found[f"macro_f1_5{end}"] == pytest.approx(expected[f"macro5_{key}"], abs=1e-12)
    if key == "zd0":
        for ours, theirs in (
            ("micro_f1_14", "micro14"), ("micro_f1_5", "micro5"), ("weighted_f1_14", "weighted14"),
            ("samples_f1_14", "samples14"),
        ):  # fmt: skip
            assert found[ours + end] == pytest.approx(expected[theirs], abs=1e-12)
        for name, value in expected["per_class"].items():
            assert found[f"f1{end}/{name}"] == pytest.approx(value, abs=1e-6)


def test_the_two_readings_of_uncertain_differ_as_the_specification_says(golden: dict[str, Any]) -> None:
    labels = golden["chexbert"]
    assert label_f1(labels["hyp"], labels["ref"])["macro_f1_14"] == pytest.approx(0.3761904762)
    found = label_f1(labels["hyp"], labels["ref"], uncertain="positive")
    assert found["macro_f1_14+"] == pytest.approx(0.5214285714)
    assert "macro_f1_14" not in found.point(), "another metric has another name"


@pytest.mark.parametrize("seed", range(3))
def test_random_labels_equal_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found, there = rng.choice(4, (2, 60, 14), p=[0.6, 0.2, 0.15, 0.05])
    ours = label_f1(found, there)
    y_true, y_pred = there == 1, found == 1
    five = [CLASSES.index(name) for name in TOP_5]
    point = ours.point()
    for average in ("macro", "micro", "weighted", "samples"):
        expected = f1_score(y_true, y_pred, average=average, zero_division=0)
        assert point[f"{average}_f1_14"] == pytest.approx(expected, abs=1e-12)
    undefined = label_f1(np.array([[0] * 14, *found]), np.array([[0] * 14, *there]), absent=float("nan"))
    expected = f1_score([[0] * 14, *y_true], [[0] * 14, *y_pred], average="samples", zero_division=np.nan)
    assert undefined["samples_f1_14"] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(undefined.per_sample["samples_f1_14"][0])
    for average in ("macro", "micro"):
        expected = f1_score(y_true[:, five], y_pred[:, five], average=average, zero_division=0)
        assert point[f"{average}_f1_5"] == pytest.approx(expected, abs=1e-12)
    positives = ours.positives(ours.statistics.sum(axis=0))
    assert [positives[f"f1/{name}"] for name in CLASSES] == y_true.sum(axis=0).tolist()
    swapped = label_f1(there, found).point()
    same = [name for name in point if not name.startswith(("weighted", "precision", "recall"))]
    assert all(swapped[name] == pytest.approx(point[name]) for name in same)


@pytest.mark.parametrize("absent", [0.0, 1.0, float("nan")])
@pytest.mark.parametrize("uncertain", ["negative", "positive"])
def test_precision_and_recall_equal_scikit_learn(uncertain: Uncertain, absent: float) -> None:
    found, there = np.random.default_rng(3).choice(4, (2, 9, 14), p=[0.8, 0.1, 0.05, 0.05])
    positive, end = ([1, 3], "+") if uncertain == "positive" else ([1], "")
    expected = precision_recall_fscore_support(
        np.isin(there, positive), np.isin(found, positive), average=None, zero_division=absent
    )
    ours = label_f1(found, there, uncertain=uncertain, absent=absent).point()
    for kind, values in zip(("precision", "recall", "f1"), expected[:3], strict=True):
        assert [ours[f"{kind}{end}/{name}"] for name in CLASSES] == pytest.approx(values.tolist(), nan_ok=True)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0] * 13], "rows of 14 codes"),
        ([[0] * 14, [0] * 13], "rows of 14 codes"),
        ([[4] * 14], "codes 0 to 3"),
        ([[0.5] * 14], "codes 0 to 3"),
        ([], "rows of 14 codes"),
    ],
)
def test_bad_labels_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        label_f1(labels, [[0] * 14])


def test_another_word_for_uncertain_is_refused() -> None:
    with pytest.raises(InputError, match="uncertain labels count as negative or positive"):
        label_f1([[0] * 14], [[0] * 14], uncertain="pos")  # type: ignore[arg-type]
