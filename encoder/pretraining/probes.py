"""Frozen probes: what the teacher's CLS features are worth, by a linear classifier and by nearest neighbours.

The published RAD-DINO was chosen so (model card): iteration 35,000 of 100,000, by linear probing on validation sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from encoder.errors import ConfigError
from encoder.manifest import Row, disjoint
from encoder.preprocessing import rad_dino

Encode = Callable[[torch.Tensor], torch.Tensor]
Floats = npt.NDArray[np.float64]

NEIGHBOURS, NEIGHBOUR_TEMPERATURE = 20, 0.07
PENALTY = 1.0
"""Of the linear probe: L2, on standardised features, divided by the number of images."""


def auroc(labels: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Area under the ROC curve of [N] scores: the chance that a positive outranks a negative, ties counting half."""
    order, ranks = np.argsort(scores, kind="stable"), np.empty(len(scores))
    ordered = scores[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    sizes = np.diff(np.r_[first, len(scores)])
    ranks[order] = np.repeat(first + (sizes + 1) / 2, sizes)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(labels: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Average precision (AUPRC) of [N] scores: precision summed over the steps in recall, ties taken together."""
    order = np.argsort(-scores, kind="stable")
    hits, ordered = np.cumsum(labels[order]), scores[order]
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float(np.sum(np.diff(np.r_[0.0, recall]) * precision))


@dataclass(frozen=True)
class ProbeResult:
    """Scores on the split ``val``, by label.

    Attributes:
        linear_auprc, linear_auroc, knn_auroc: label -> score.
        left_out: labels with fewer than 2 positives or negatives in train, or none in val.
    """

    linear_auprc: dict[str, float]
    linear_auroc: dict[str, float]
    knn_auroc: dict[str, float]
    left_out: tuple[str, ...]

    def scores(self) -> dict[str, float]:
        """The three macro averages."""
        return {
            name: float(np.mean(list(getattr(self, name).values())))
            for name in ("linear_auprc", "linear_auroc", "knn_auroc")
        }


class Probe:
    """Labelled images, read once and preprocessed as for inference.

    Args:
        rows: with splits ``train`` and ``val``; labels 1 and 0, others count as unknown.
        size: side of the square images in pixels.

    Raises:
        LlavaRadError: a subject is in both splits, or an image cannot be read.
        ConfigError: no label has enough positives.
    """

    def __init__(self, rows: Sequence[Row], *, size: int) -> None:
        disjoint(rows)
        self._recipe = rad_dino(size)
        chosen = [row for row in rows if row.split in ("train", "val")]
        self._images = np.stack(self._read([row.path for row in chosen]))
        self._train = np.array([row.split == "train" for row in chosen])
        names = sorted({name for row in chosen for name in row.labels})
        table = {
            name: np.array([value if (value := row.labels.get(name)) in (0, 1) else np.nan for row in chosen], float)
            for name in names
        }
        self._labels = {name: values for name, values in table.items() if self._enough(values)}
        self.left_out = tuple(name for name in names if name not in self._labels)
        if not self._labels:
            raise ConfigError("probe.manifest has no label with two positives in train and one in val")

    def _enough(self, values: Floats) -> bool:
        train, val = values[self._train], values[~self._train]
        fewest = [int((part == value).sum()) for part in (train, val) for value in (0, 1)]
        return min(fewest[:2]) >= 2 and min(fewest[2:]) >= 1

    def _read(self, paths: Sequence[Path]) -> list[npt.NDArray[np.uint8]]:
        from encoder.sandbox import Reader

        with Reader() as reader:
            return [reader.prepare(path, self._recipe).pixels for path in paths]

    def run(self, encode: Encode, batch_size: int = 32) -> ProbeResult:
        """Probe an encoder.

        Args:
            encode: [B, 3, S, S] normalised images -> [B, D] features.
            batch_size: images at a time.
        """
        parts = [
            encode(self._recipe.normalise(self._images[start : start + batch_size])).detach().cpu().double()
            for start in range(0, len(self._images), batch_size)
        ]
        return self.score(torch.cat(parts))

    def score(self, features: torch.Tensor) -> ProbeResult:
        """Scores of [N, D] features in the order of the rows."""
        train, val = torch.from_numpy(self._train), torch.from_numpy(~self._train)
        mean, std = features[train].mean(0), features[train].std(0).clamp_min(1e-6)
        standard = (features - mean) / std
        unit = functional.normalize(features - mean, dim=1)
        similarity = unit[val] @ unit[train].t()
        auprc, roc, near = {}, {}, {}
        for name, values in self._labels.items():
            known = torch.from_numpy(~np.isnan(values))
            labels = torch.from_numpy(np.nan_to_num(values))
            fit, judge = train & known, val & known
            truth = labels[judge].numpy() == 1
            linear = logistic_regression(standard[fit], labels[fit])
            scores = (standard[judge] @ linear[:-1] + linear[-1]).numpy()
            auprc[name], roc[name] = average_precision(truth, scores), auroc(truth, scores)
            nearby = similarity[known[val]][:, known[train]]
            top, places = nearby.topk(min(NEIGHBOURS, nearby.shape[1]), dim=1)
            votes = (torch.softmax(top / NEIGHBOUR_TEMPERATURE, dim=1) * labels[fit][places]).sum(1)
            near[name] = auroc(truth, votes.numpy())
        return ProbeResult(auprc, roc, near, self.left_out)


def logistic_regression(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """L2-regularised logistic regression by L-BFGS in float64: [N, D], [N] -> [D + 1], the intercept last.

    Minimises ``sum of log losses + PENALTY * |w|^2 / 2`` with the intercept free, as scikit-learn's
    ``LogisticRegression(C=1 / PENALTY)`` does.
    """
    weights = torch.zeros(features.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=200, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        scores = features @ weights[:-1] + weights[-1]
        loss = functional.binary_cross_entropy_with_logits(scores, labels.double(), reduction="sum")
        loss = (loss + PENALTY * weights[:-1].square().sum() / 2) / len(labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()
