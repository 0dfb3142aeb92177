"""Logistic regression of many labels and penalties, its cross-validation and scores, against scikit-learn."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from encoder.probing.logistic import (
    FOLDS,
    GRID,
    UNDECIDED,
    auroc,
    average_precision,
    choose_c,
    folds,
    logistic_regression,
)


def task(
    images: int, width: int, labels: int, seed: int = 0, rarest: float = 1.5
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Correlated features that tell something of the labels, of which the last are rare."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(images, 30))
    mix = rng.normal(size=(30, width)) / np.arange(1, 31)[:, None]
    features = causes @ mix + 0.1 * rng.normal(size=(images, width)) + 3
    scores = causes[:, :labels] + 0.7 * rng.normal(size=(images, labels)) - np.linspace(0, rarest, labels)
    return features, (scores > 0).astype(float)


@pytest.mark.parametrize("decimals", [8, 1, 0])  # fewer decimals: more ties
def test_scores_equal_scikit_learns_also_with_ties(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    for size, share in ((7, 0.5), (200, 0.1), (201, 0.9)):
        labels = rng.random(size) < share
        labels[:2] = True, False
        scores = (labels + rng.normal(size=size)).round(decimals)
        assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


def test_scores_by_hand() -> None:
    labels = np.array([True, False, True, False])
    assert auroc(labels, np.array([4.0, 3.0, 2.0, 1.0])) == 0.75
    assert average_precision(labels, np.array([4.0, 3.0, 2.0, 1.0])) == pytest.approx((1 + 2 / 3) / 2)
    assert auroc(labels, np.ones(4)) == 0.5 and average_precision(labels, np.ones(4)) == 0.5


@pytest.mark.parametrize("images", [300, 40])  # more images than features, and fewer
def test_coefficients_equal_scikit_learns_for_all_labels_and_penalties_at_once(images: int) -> None:
    features, labels = task(images, 60, 4)
    standard = StandardScaler().fit_transform(features)
    known = np.ones_like(labels)
    known[::3, 1] = 0  # unknown labels are as if their rows were not there
    weights, bias = logistic_regression(*map(torch.from_numpy, (standard, labels, known)), GRID)
    assert weights.shape == (60, 4, len(GRID)) and bias.shape == (4, len(GRID))
    for label in range(4):
        rows = known[:, label] == 1
        for place, c in enumerate(GRID):
            model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12, max_iter=1000)
            model.fit(standard[rows], labels[rows, label])
            ours = np.r_[weights[:, label, place].numpy(), bias[label, place].numpy()]
            np.testing.assert_allclose(ours, np.r_[model.coef_[0], model.intercept_], rtol=1e-5, atol=1e-7)


def test_a_label_that_nobody_knows_gives_zeros() -> None:
    features, labels = task(30, 5, 2)
    known = np.ones_like(labels)
    known[:, 1] = 0
    weights, bias = logistic_regression(*map(torch.from_numpy, (features - features.mean(0), labels, known)), [1.0])
    assert bool((weights[:, 1] == 0).all()) and float(bias[1]) == 0 and bool((weights[:, 0] != 0).all())


def test_folds_keep_groups_together_evenly_and_always_alike() -> None:
    groups = [number // 3 for number in range(3 * 103)]
    fold = folds(groups)
    assert all(len(set(fold[3 * group : 3 * group + 3])) == 1 for group in range(103))
    assert sorted(np.bincount(fold, minlength=FOLDS)) == [60, 60, 63, 63, 63]
    assert np.array_equal(fold, folds(groups))


def by_scikit_learn(
    features: npt.NDArray[np.float64],
    labels: npt.NDArray[np.float64],
    known: npt.NDArray[np.float64],
    fold: npt.NDArray[np.int64],
) -> list[float]:
    """Mean average precision for each C of the grid."""
    means = []
    for c in GRID:
        found = []
        for number in range(FOLDS):
            for label in range(labels.shape[1]):
                fit, held = ((known[:, label] == 1) & side for side in (fold != number, fold == number))
                if len(set(labels[fit, label])) < 2 or len(set(labels[held, label])) < 2:
                    continue
                scaler = StandardScaler().fit(features[fold != number])
                model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-8, max_iter=1000)
                model.fit(scaler.transform(features[fit]), labels[fit, label])
                odds = model.decision_function(scaler.transform(features[held]))
                found.append(average_precision_score(labels[held, label], odds))
        means.append(float(np.mean(found)))
    return means


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_penalty_is_the_one_that_scikit_learn_would_choose(seed: int) -> None:
    features, labels = task(240, 40, 3, seed, rarest=2.2)
    known = (np.random.default_rng(seed).random(labels.shape) < 0.9).astype(float)
    groups = [number // 2 for number in range(240)]
    means = by_scikit_learn(features, labels, known, folds(groups))
    assert len({round(mean, 6) for mean in means}) > 4  # the grid does matter
    seen: list[float] = []

    def score(truth: npt.NDArray[np.bool_], odds: npt.NDArray[np.float64]) -> float:
        seen.append(average_precision(truth, odds))
        return seen[-1]

    chosen = choose_c(*map(torch.from_numpy, (features, labels, known)), groups, score)
    ours = np.array(seen).reshape(-1, len(GRID)).mean(0)
    np.testing.assert_allclose(ours, means, atol=2e-3)  # close fits, not exact ones
    assert means[GRID.index(chosen)] >= max(means) - 2e-3


def test_noise_wants_a_strong_penalty_and_a_clean_signal_a_weak_one() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 50))
    signal = (features @ rng.normal(size=50) > 0).astype(float)[:, None]
    weak = (features[:, 0] + 3 * rng.normal(size=300) > 0).astype(float)[:, None]
    chosen = [
        choose_c(*map(torch.from_numpy, (features, labels, np.ones_like(labels))), range(300), average_precision)
        for labels in (signal, weak)
    ]
    assert chosen[0] >= 0.1 > 1e-2 >= chosen[1]


def test_too_few_patients_leave_the_penalty_undecided() -> None:
    features, labels = task(12, 4, 1)
    tensors = [torch.from_numpy(array) for array in (features, labels, np.ones_like(labels))]
    assert choose_c(*tensors, ["one patient"] * 12, average_precision) == UNDECIDED
    assert choose_c(*tensors, list(labels[:, 0]), average_precision) == UNDECIDED  # each side has one class only


@pytest.mark.slow
def test_a_probe_of_vit_small_takes_seconds() -> None:
    """1,116 images to fit, 159 to judge, 384 features, 14 labels: a budget of 5 s on one core, CPU time."""
    features, labels = task(1116, 384, 14, rarest=2.5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        started = time.process_time()
        tensors = [torch.from_numpy(array) for array in (features, labels, np.ones_like(labels))]
        c = choose_c(*tensors, range(1116), average_precision)
        logistic_regression(tensors[0] - tensors[0].mean(0), *tensors[1:], [c])
        assert time.process_time() - started < 10  # twice the budget: machines differ
    finally:
        torch.set_num_threads(threads)
