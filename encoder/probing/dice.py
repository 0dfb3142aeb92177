"""Dice: how far a predicted mask and the truth overlap, by structure and by group of patients.

Edge cases, with the reason:

- both empty: no value (NaN). Nothing was there to be found, so the image says nothing about overlap.
- truth empty, prediction not: 0 by the formula, but no part of a mean: the paper's means are "across the cases in the
  dataset with masks" (table 3). Such images are counted as false alarms.
- prediction empty, truth not: 0, and part of the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def dice(prediction: Bools, truth: Bools) -> Floats:
    """``2 |A and B| / (|A| + |B|)`` of masks [..., H, W]; NaN where both are empty.

    Returns:
        [...], between 0 and 1.
    """
    both = (prediction & truth).sum((-2, -1), dtype=np.int64)
    total = prediction.sum((-2, -1), dtype=np.int64) + truth.sum((-2, -1), dtype=np.int64)
    scores: Floats = np.where(total > 0, 2 * both / np.maximum(total, 1), np.nan)
    return scores


@dataclass(frozen=True)
class DiceScore:
    """Dice over images.

    Attributes:
        mean: over ``images``; NaN where there are none.
        sd: standard deviation over them (n - 1 in the denominator); NaN below two.
        images: those whose truth has the structure.
    """

    mean: float
    sd: float
    images: int

    @classmethod
    def of(cls, values: Floats) -> DiceScore:
        """Of values [N], NaN left out."""
        known = values[~np.isnan(values)]
        mean = float(known.mean()) if len(known) else math.nan
        return cls(mean, float(known.std(ddof=1)) if len(known) > 1 else math.nan, len(known))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: None in place of NaN."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class GroupScores:
    """Dice by group of patients (paper C.6.1: the average, and the worst group).

    Attributes:
        groups: name -> score over that group's images; images of unknown group ("") are left out.
        mean: mean over all images that have a group, as in the paper's "avg".
        worst: name of the group with the lowest mean; "" where no group has a value.
    """

    groups: dict[str, DiceScore]
    mean: float
    worst: str

    @classmethod
    def of(cls, values: Floats, groups: Sequence[str]) -> GroupScores:
        """Of values [N] and each image's group."""
        names = np.array(groups, dtype=object)
        scores = {name: DiceScore.of(values[names == name]) for name in sorted({*groups} - {""})}
        judged = {name: score for name, score in scores.items() if score.images}
        worst = min(judged, key=lambda name: (judged[name].mean, name)) if judged else ""
        return cls(scores, DiceScore.of(values[names != ""]).mean, worst)

    @property
    def worst_mean(self) -> float:
        """The worst group's mean; NaN where there is none."""
        return self.groups[self.worst].mean if self.worst else math.nan

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "mean": None if math.isnan(self.mean) else self.mean,
            "worst_group": self.worst or None,
            "worst_mean": None if not self.worst else self.worst_mean,
            "groups": {name: score.to_dict() for name, score in self.groups.items()},
        }
