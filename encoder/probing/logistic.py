"""Logistic regression of many labels and penalties at once, its cross-validation, and the scores of its predictions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

Floats = npt.NDArray[np.float64]
Score = Callable[[npt.NDArray[np.bool_], npt.NDArray[np.float64]], float]

GRID = tuple(10.0**power for power in range(-5, 3))
"""Values of C to choose from, for standardised features."""
FOLDS = 5
UNDECIDED = 1e-2
"""C where there are too few subjects or positives to choose one."""


def auroc(labels: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Area under the ROC curve of [N] scores: probability that a positive outranks a negative, ties counting half."""
    order, ranks = np.argsort(scores, kind="stable"), np.empty(len(scores))
    ordered = scores[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    sizes = np.diff(np.r_[first, len(scores)])
    ranks[order] = np.repeat(first + (sizes + 1) / 2, sizes)
    positives = int(labels.sum())
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * (len(labels) - positives)))


def average_precision(labels: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Average precision (AUPRC) of [N] scores: precision summed over the steps in recall, ties taken together."""
    order = np.argsort(-scores, kind="stable")
    hits, ordered = np.cumsum(labels[order]), scores[order]
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float(np.sum(np.diff(np.r_[0.0, recall]) * precision))


def logistic_regression(
    features: torch.Tensor,
    labels: torch.Tensor,
    known: torch.Tensor,
    cs: Sequence[float],
    *,
    tolerance: float = 1e-9,
) -> tuple[torch.Tensor, torch.Tensor]:
    """L2-regularised logistic regression of L labels for each of C penalties, by Newton's method in float64.

    Minimises ``sum of log losses + |w|^2 / (2 c)`` with the intercept free, as scikit-learn's
    ``LogisticRegression(C=c)`` does. Newton's steps of all labels and penalties are found together by conjugate
    gradients. One eigendecomposition of the features' Gram matrix serves all of them: in its basis their Hessians are
    nearly diagonal.

    Args:
        features: float64 [N, D], centred.
        labels: float64 [N, L] of 0 and 1.
        known: float64 [N, L], 1 where a label is known; labels that are not weigh nothing. Each column needs both
            classes, or no known label at all, which gives zeros.
        cs: C numbers.
        tolerance: norm of the gradient at the end, relative to the one at the start, both preconditioned.

    Returns:
        Weights [D, L, C] and intercepts [L, C].
    """
    rows, width, columns = len(features), features.shape[1], labels.shape[1] * len(cs)
    spectrum, basis = torch.linalg.eigh(features.t() @ features)
    inputs = torch.cat([features @ basis, features.new_ones(rows, 1)], dim=1)
    curvature = torch.cat([spectrum.clamp_min(0), spectrum.new_tensor([float(rows)])])[:, None]
    penalty = torch.cat([(1 / features.new_tensor(cs)).expand(width, -1), features.new_zeros(1, len(cs))])
    penalty = penalty.repeat(1, labels.shape[1])
    labels, known = labels.repeat_interleave(len(cs), 1), known.repeat_interleave(len(cs), 1)

    weights = features.new_zeros(width + 1, columns)
    first = features.new_full((columns,), torch.inf)
    active = torch.arange(columns, device=features.device)
    for _ in range(100):
        w, y, k, p = weights[:, active], labels[:, active], known[:, active], penalty[:, active]
        scores = inputs @ w
        probs = torch.sigmoid(scores)
        gradient = inputs.t() @ (k * (probs - y)) + p * w
        hessian_weight = k * probs * (1 - probs)
        scale = (curvature * hessian_weight.mean(0) + p).clamp_min(1e-12)
        size = (gradient.square() / scale).sum(0)
        first[active] = torch.where(first[active].isinf(), size, first[active])
        going = size > tolerance**2 * first[active]
        if not bool(going.any()):
            break
        active = active[going]
        tensors = (w, y, k, p, scores, gradient, hessian_weight, scale)
        w, y, k, p, scores, gradient, hessian_weight, scale = (one[:, going] for one in tensors)
        accuracy = (size[going] / first[active]).clamp_max(0.01)  # quadratic convergence
        step = _newton_step(inputs, gradient, hessian_weight, p, scale, accuracy)
        weights[:, active] = w + _length(inputs, w, step, scores, gradient, y, k, p) * step
    weights = weights.view(width + 1, -1, len(cs))
    return torch.tensordot(basis, weights[:-1], dims=1), weights[-1]


def _newton_step(
    inputs: torch.Tensor,
    gradient: torch.Tensor,
    hessian_weight: torch.Tensor,
    penalty: torch.Tensor,
    scale: torch.Tensor,
    accuracy: torch.Tensor,
) -> torch.Tensor:
    """``-Hessian^-1 gradient`` of each column, by conjugate gradients preconditioned with the diagonal ``scale``.

    ``accuracy`` [columns] is the squared norm of the rest at the end, relative to the gradient's.
    """
    step, rest = torch.zeros_like(gradient), -gradient
    direction = rest / scale
    size = (rest * direction).sum(0)
    goal = accuracy * size
    for _ in range(200):
        image = inputs.t() @ (hessian_weight * (inputs @ direction)) + penalty * direction
        length = size / (direction * image).sum(0).clamp_min(1e-300)
        step += length * direction
        rest -= length * image
        scaled = rest / scale
        new = (rest * scaled).sum(0)
        if bool((new <= goal).all()):
            break
        direction = scaled + new / size.clamp_min(1e-300) * direction
        size = new
    return step


def _length(
    inputs: torch.Tensor,
    weights: torch.Tensor,
    step: torch.Tensor,
    scores: torch.Tensor,
    gradient: torch.Tensor,
    labels: torch.Tensor,
    known: torch.Tensor,
    penalty: torch.Tensor,
) -> torch.Tensor:
    """Step length of each column: 1, halved until the loss falls enough (Armijo)."""

    def loss(at: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (known * (functional.softplus(at) - labels * at)).sum(0) + (penalty * w.square()).sum(0) / 2

    before, descent, moved = loss(scores, weights), (gradient * step).sum(0), inputs @ step
    length = torch.ones_like(before)
    for _ in range(40):
        bad = loss(scores + length * moved, weights + length * step) > before * (1 + 1e-12) + 1e-4 * length * descent
        if not bool(bad.any()):
            break
        length = torch.where(bad, length / 2, length)
    return length


def standardise(fit: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """All of them [N, D] with ``fit``'s mean taken away and divided by its standard deviation."""
    mean, std = fit.mean(0), fit.std(0, correction=0).clamp_min(1e-6)
    return tuple((features - mean) / std for features in (fit, *others))


def folds(groups: Sequence[Hashable], seed: int = 0) -> npt.NDArray[np.int64]:
    """The fold of each row, the same for the same groups and seed: a group is in one fold, each fold has as many."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    turn = np.random.default_rng(seed).permutation(len(numbers)) % FOLDS
    return turn[[numbers[group] for group in groups]]


def choose_c(
    features: torch.Tensor, labels: torch.Tensor, known: torch.Tensor, groups: Sequence[Hashable], score: Score
) -> float:
    """C of ``GRID`` with the best mean score over labels and folds of grouped cross-validation.

    Args:
        features: float64 [N, D].
        labels, known: float64 [N, L], as for ``logistic_regression``.
        groups: [N]; those of one group are never on both sides.
        score: of [n] labels and [n] log-odds, the higher the better. A label is left out of a fold where it has not
            both classes on both sides.

    Returns:
        The smallest of the best; ``UNDECIDED`` where no label can be scored in any fold.
    """
    fold = torch.from_numpy(folds(groups))
    found: list[list[float]] = []
    for number in range(FOLDS):
        held, fit = fold == number, fold != number
        usable = _both(labels[held], known[held]) & _both(labels[fit], known[fit])
        if not bool(usable.any()):
            continue
        inside, outside = standardise(features[fit], features[held])
        weights, bias = logistic_regression(inside, labels[fit][:, usable], known[fit][:, usable], GRID, tolerance=1e-3)
        odds = (torch.tensordot(outside, weights, dims=1) + bias).cpu()
        judged, truths = known[held].cpu() == 1, labels[held].cpu() == 1
        for column, label in enumerate(usable.nonzero()[:, 0].tolist()):
            seen = judged[:, label]
            truth = truths[seen, label].numpy()
            found.append([score(truth, odds[seen, column, i].numpy()) for i in range(len(GRID))])
    return GRID[int(np.argmax(np.mean(found, axis=0)))] if found else UNDECIDED


def _both(labels: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Of each column [L], whether both classes are among its known labels."""
    positives = (labels * known).sum(0)
    return (positives > 0) & (positives < known.sum(0))
