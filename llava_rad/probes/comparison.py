"""Intervals and paired comparisons of a probe's AUPRC and AUROC, by patient.

A score is the mean over runs of each run's score, as the paper reports it. Resamples draw patients with all their
images, the same ones for every encoder; a label that lacks a class in a resample is left out of that resample's
average. The test exchanges two encoders' predictions of a patient. Predictions of encoders have different scales, which
scores ignore; so ranks are exchanged (Bandos, Rockette & Gur 2005), and both sides are ranked anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from metrics.bootstrap import Bootstrap, Difference, Interval, Patients

Floats = npt.NDArray[np.float64]
Table = Mapping[tuple[str, str], Floats]
"""Score (``auprc``, ``auroc``) and label, or :data:`MACRO`, to numbers."""
MACRO: Final = "macro"
SCORES: Final = ("auprc", "auroc")
SAMPLES, PERMUTATIONS = 1000, 2000
_ELEMENTS = 1 << 21  # of an array at a time
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Predictions:
    """Predictions of one encoder's probe for J images.

    Attributes:
        labels: names of L labels.
        truth: [J, L], 1, 0 or NaN for unknown.
        odds: [J, L] of each run, NaN for images that it does not judge; only their order counts.
        averaged: labels of the macro average.
    """

    labels: tuple[str, ...]
    truth: Floats
    odds: Sequence[Floats]
    averaged: tuple[str, ...]

    def columns(self) -> Iterator[tuple[str, int, npt.NDArray[np.intp]]]:
        """Yield label, number of the run, and the images that it judges and whose label is known."""
        for column, label in enumerate(self.labels):
            for run, odds in enumerate(self.odds):
                yield label, run, np.flatnonzero(~np.isnan(self.truth[:, column]) & ~np.isnan(odds[:, column]))

    def column(self, label: str, run: int, images: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.bool_], Floats]:
        """Return truth and log-odds of some images."""
        column = self.labels.index(label)
        return self.truth[images, column] == 1, self.odds[run][images, column]


def bootstrap() -> Bootstrap:
    """Return the settings of intervals and tests of probes."""
    from metrics.bootstrap import Bootstrap

    return Bootstrap(samples=SAMPLES, permutations=PERMUTATIONS)


def scores(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """Return AUPRC (average precision) and AUROC [...] of counts of images [..., B] by prediction, lowest first.

    Images with equal predictions are in the same of the B places. NaN if a class is absent.
    """
    above, below = positive[..., ::-1].cumsum(-1)[..., ::-1], negative.cumsum(-1) - negative / 2
    counted = above + negative[..., ::-1].cumsum(-1)[..., ::-1]
    positives, negatives = positive.sum(-1), negative.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.divide(above, counted, out=np.zeros_like(above), where=counted > 0)
        auprc = (positive * precision).sum(-1) / positives
        auroc = (positive * below).sum(-1) / (positives * negatives)
    one_class = (positives == 0) | (negatives == 0)
    return np.where(one_class, np.nan, auprc), np.where(one_class, np.nan, auroc)


def points(predictions: Predictions) -> Table:
    """Return the scores of the images themselves, [1] each."""
    return _weighted(predictions, np.ones((1, len(predictions.truth))))


def intervals(predictions: Predictions, patients: Patients) -> dict[tuple[str, str], Interval]:
    """Return every score with its 95 % interval by patient; one patient has none.

    Args:
        predictions: for J images.
        patients: of the J images.
    """
    from metrics.bootstrap import interval

    drawn = draws(predictions, patients)
    return {key: interval(float(value[0]), drawn.get(key)) for key, value in points(predictions).items()}


def differences(first: Predictions, second: Predictions, patients: Patients) -> dict[tuple[str, str], Difference]:
    """Return every score of the first minus the second's, with its interval and p by patient; p is uncorrected.

    Args:
        first: for J images.
        second: for the same images, runs and labels.
        patients: of the J images.
    """
    from metrics.bootstrap import Difference, interval

    drawn, others = draws(first, patients), draws(second, patients)
    one, other = points(first), points(second)
    p_values = _p_values(first, second, patients)
    found = {}
    for key in one:
        value = float(one[key][0] - other[key][0])
        ends = interval(value, drawn[key] - others[key] if drawn else None)
        found[key] = Difference(ends.point, ends.median, ends.low, ends.high, p_values[key], p_values[key])
    return found


def draws(predictions: Predictions, patients: Patients) -> Table:
    """Return the scores of every resample of patients, [S] each; none for a single patient."""
    if len(patients) < 2:
        return {}
    return _weighted(predictions, patients.weights[:, patients.rows])


def _weighted(predictions: Predictions, weights: Floats) -> Table:
    """Return the scores [S] of images that count as often as weights [S, J] say."""
    found: dict[tuple[str, str], list[Floats]] = {}
    for label, run, images in predictions.columns():
        truth, odds = predictions.column(label, run, images)
        order = np.argsort(odds, kind="stable")
        first = np.flatnonzero(np.r_[True, np.diff(odds[order]) != 0])
        parts = []
        for some in _chunks(weights, len(order)):
            counts = some[:, images[order]]
            both = (counts * side for side in (truth[order], ~truth[order]))
            parts.append(scores(*(np.add.reduceat(side, first, axis=1) for side in both)))
        for name, values in zip(SCORES, map(np.concatenate, zip(*parts, strict=True)), strict=True):
            found.setdefault((name, label), []).append(values)
    return _averaged(found, predictions)


def _p_values(first: Predictions, second: Predictions, patients: Patients) -> dict[tuple[str, str], float | None]:
    """Test by patient; the statistic is the absolute difference of the scores."""
    one, other = points(first), points(second)
    observed = {key: float(one[key][0] - other[key][0]) for key in one}
    extreme, number = dict.fromkeys(observed, 0), 0
    for exchanged in patients.exchanges():
        number += len(exchanged)
        found: dict[tuple[str, str], list[Floats]] = {}
        for label, run, images in first.columns():
            truth, odds = first.column(label, run, images)
            ranks, others = _ranks(odds), _ranks(second.column(label, run, images)[1])
            parts = []
            for some in _chunks(exchanged, len(images)):
                swapped = some[:, patients.rows[images]] > 0
                sides = np.where(swapped, others, ranks), np.where(swapped, ranks, others)
                (auprc, auroc), (less, lower) = (scores(*_counted(side, truth)) for side in sides)
                parts.append((auprc - less, auroc - lower))
            for name, values in zip(SCORES, map(np.concatenate, zip(*parts, strict=True)), strict=True):
                found.setdefault((name, label), []).append(values)
        for key, values in _averaged(found, first).items():
            extreme[key] += len(values) - int((np.abs(values) < abs(observed[key]) - _ROUNDING).sum())
    return {key: None if np.isnan(value) else patients.p_value(extreme[key], number) for key, value in observed.items()}


def _averaged(found: Mapping[tuple[str, str], list[Floats]], predictions: Predictions) -> Table:
    """Average over runs, then over labels; what is not defined is left out."""
    table = {key: _mean(values) for key, values in found.items()}
    return table | {
        (name, MACRO): _mean([table[name, label] for label in predictions.averaged])
        for name in SCORES
        if predictions.averaged
    }


def _mean(values: Sequence[Floats]) -> Floats:
    stacked = np.stack(values)
    known = ~np.isnan(stacked)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(known, stacked, 0).sum(0) / known.sum(0)
    return mean


def _ranks(odds: Floats) -> npt.NDArray[np.int64]:
    """Rank N predictions: twice the number of lower ones plus the number of equal ones, between 1 and 2 N - 1."""
    _, place, count = np.unique(odds, return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.int64] = (2 * (np.cumsum(count) - count) + count)[place]
    return ranks


def _counted(ranks: npt.NDArray[np.int64], truth: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Count positives and negatives [K, 2 N] of each rank in each of K rows of ranks [K, N]."""
    rows, size = len(ranks), 2 * len(truth)
    at = ranks + size * np.arange(rows)[:, None]
    positive, negative = (
        np.bincount(at[:, side].ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)
        for side in (truth, ~truth)
    )
    return positive, negative


def _chunks(rows: Floats, width: int) -> Iterator[Floats]:
    step = max(1, _ELEMENTS // max(1, width))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]
