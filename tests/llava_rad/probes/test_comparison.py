"""Intervals and tests of probes by patient: scores against scikit-learn's, exchanges by hand, false verdicts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from llava_rad.probes.comparison import MACRO, Predictions, bootstrap, differences, intervals, points, scores
from metrics.bootstrap import Bootstrap

sklearn_metrics = pytest.importorskip("sklearn.metrics")
PATIENTS = [f"p{number // 2}" for number in range(60)]


def predictions(seed: int = 0, runs: int = 2, skill: float = 1.0, scale: float = 1.0) -> Predictions:
    """Two labels, one of which is partly unknown, with ties; the truth is the same for every seed."""
    truth = (np.random.default_rng(0).random((60, 2)) < 0.3).astype(float)
    noise = np.random.default_rng(seed + 1).normal(size=(runs, 60, 2))
    odds = [np.round(scale * (skill * truth + one), 1) for one in noise]
    truth[::7, 1] = np.nan
    return Predictions(("A", "B"), truth, odds, ("A", "B"))


def expected(one: Predictions, weights: np.ndarray) -> dict[tuple[str, str], float]:  # type: ignore[type-arg]
    """The scores by scikit-learn, whose ``sample_weight`` counts an image several times."""
    found: dict[tuple[str, str], float] = {}
    for column, label in enumerate(one.labels):
        known = ~np.isnan(one.truth[:, column])
        for name, score in (
            ("auprc", sklearn_metrics.average_precision_score),
            ("auroc", sklearn_metrics.roc_auc_score),
        ):
            values = [
                score(one.truth[use, column], odds[use, column], sample_weight=weights[use])
                for odds in one.odds
                for use in [known & ~np.isnan(odds[:, column])]
            ]
            found[name, label] = float(np.mean(values))
    return found | {(name, MACRO): np.mean([found[name, label] for label in "AB"]) for name in ("auprc", "auroc")}


def test_scores_are_scikit_learns() -> None:
    one = predictions()
    found = points(one)
    for key, value in expected(one, np.ones(60)).items():
        assert found[key] == pytest.approx(value)


def test_a_run_is_scored_on_the_images_that_it_judges() -> None:
    one = predictions()
    for number, odds in enumerate(one.odds):
        odds[number::2] = np.nan
    found = points(one)
    for key, value in expected(one, np.ones(60)).items():
        assert found[key] == pytest.approx(value)


def test_intervals_are_percentiles_of_scikit_learns_scores_on_resampled_patients() -> None:
    one, settings = predictions(), Bootstrap(samples=25)
    patients = settings.patients(PATIENTS)
    rng = np.random.default_rng(settings.seed)
    drawn = [np.repeat(np.bincount(rng.choice(30, 30), minlength=30), 2) for _ in range(25)]
    values = [expected(one, weights) for weights in drawn]
    for key, interval in intervals(one, patients).items():
        low, median, high = np.quantile([value[key] for value in values], (0.025, 0.5, 0.975))
        assert (interval.low, interval.median, interval.high) == (
            pytest.approx(low),
            pytest.approx(median),
            pytest.approx(high),
        )


def test_without_a_class_there_is_no_score_and_a_resample_averages_the_other_labels() -> None:
    assert np.isnan(scores(np.array([0.0, 0.0]), np.array([1.0, 2.0]))).all()
    truth = np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    one = Predictions(("A", "B"), truth, [np.array([[3.0, 1], [1, 2], [2, 3], [0, 4]])], ("A", "B"))
    patients = Bootstrap(samples=200).patients(["a", "b", "c", "d"])
    found = intervals(one, patients)
    assert found["auroc", "A"].low == found["auroc", "A"].high == 1.0
    assert found["auroc", MACRO].high == 1.0, "where patient a is not drawn only A counts"
    assert found["auroc", MACRO].point == 0.5


def test_one_patient_has_no_interval() -> None:
    one = predictions()
    assert intervals(one, Bootstrap().patients(["a"] * 60))["auroc", "A"].low is None


def test_p_is_that_of_all_exchanges_of_ranks_by_hand() -> None:
    """Six patients of ten images: all 64 exchanges, with midranks, scored by scikit-learn."""
    first, second = predictions(0, 1, 2.0), predictions(5, 1, 0.0, scale=100.0)
    names = [f"p{number // 10}" for number in range(60)]
    found = differences(first, second, Bootstrap().patients(names))

    def ranks(odds: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return np.array([(odds < one).sum() + (odds == one).sum() / 2 for one in odds])

    for column, label in enumerate("AB"):
        known = ~np.isnan(first.truth[:, column])
        truth = first.truth[known, column]
        a, b = (ranks(one.odds[0][known, column]) for one in (first, second))
        whose = np.array([int(name[1:]) for name in names])[known]
        for name, score in (
            ("auroc", sklearn_metrics.roc_auc_score),
            ("auprc", sklearn_metrics.average_precision_score),
        ):
            observed = abs(score(truth, a) - score(truth, b))
            changed = []
            for flips in itertools.product((False, True), repeat=6):
                swap = np.array(flips)[whose]
                changed.append(abs(score(truth, np.where(swap, b, a)) - score(truth, np.where(swap, a, b))))
            assert found[name, label].p == pytest.approx(np.mean(np.array(changed) >= observed - 1e-12))


def test_another_scale_of_the_predictions_changes_nothing() -> None:
    patients = Bootstrap(samples=50, permutations=200).patients(PATIENTS)
    first, second = predictions(0), predictions(1)
    other = Predictions(second.labels, second.truth, [np.exp(odds) * 50 for odds in second.odds], second.averaged)
    assert differences(first, second, patients) == differences(first, other, patients)


def test_the_same_predictions_differ_by_nothing() -> None:
    found = differences(predictions(), predictions(), Bootstrap(samples=50, permutations=50).patients(PATIENTS))
    assert {(one.point, one.low, one.high, one.p) for one in found.values()} == {(0.0, 0.0, 0.0, 1.0)}


def test_a_better_encoder_is_found_and_the_order_of_the_two_changes_the_sign() -> None:
    patients = Bootstrap(samples=200, permutations=500).patients(PATIENTS)
    good, bad = predictions(0, skill=4.0), predictions(1, skill=0.0)
    there, back = differences(good, bad, patients), differences(bad, good, patients)
    assert there["auroc", MACRO].verdict == "first" and back["auroc", MACRO].verdict == "second"
    assert there["auroc", MACRO].low == pytest.approx(-back["auroc", MACRO].high)
    assert there["auroc", MACRO].p == back["auroc", MACRO].p


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_false_verdicts_are_about_one_in_twenty(correlation: float) -> None:
    """Two equally good encoders on 40 patients of three images, whose errors resemble each other."""
    rng = np.random.default_rng(0)
    names, wrong = [f"p{number // 3}" for number in range(120)], 0
    for _ in range(300):
        truth = np.repeat(rng.random((40, 1)) < 0.4, 3, axis=0).astype(float)
        both = []
        for scale in (1.0, 3.0):
            noise = np.sqrt(correlation) * np.repeat(rng.normal(size=(40, 1)), 3, axis=0)
            noise = noise + np.sqrt(1 - correlation) * rng.normal(size=(120, 1))
            both.append(Predictions(("A",), truth, [scale * (truth + noise)], ("A",)))
        patients = Bootstrap(samples=200, permutations=200).patients(names)
        wrong += differences(*both, patients)["auroc", "A"].verdict != "no difference shown"
    assert 2 <= wrong <= 27, wrong  # 300 x 5 % = 15, four standard deviations each way


def test_settings_are_enough_for_small_p() -> None:
    assert 1 / (bootstrap().permutations + 1) < 0.001
