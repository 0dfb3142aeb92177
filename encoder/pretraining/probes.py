"""Frozen probes: score the teacher's CLS features by a linear classifier and by nearest neighbours.

The published RAD-DINO was chosen in this way: iteration 35,000 of 100,000, by linear probing on validation sets (model
card).

The linear classifier is logistic regression on standardised features. Cross-validation on the training images, each
patient in one fold, chooses one penalty for all labels. The neighbours vote as in DINO's protocol (Caron et al. 2021):
20 nearest by cosine, weighted with exp(cosine / 0.07); features are centred first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from encoder.datasets.manifest import Row
from encoder.datasets.splits import disjoint
from encoder.errors import ConfigError, LlavaRadError
from encoder.preprocessing import rad_dino
from encoder.probing.vectors import Unreadable
from encoder.runs.distributed import everyone, on_first, rank_and_world

Encode = Callable[[torch.Tensor], torch.Tensor]
Floats = npt.NDArray[np.float64]

NEIGHBOURS, NEIGHBOUR_TEMPERATURE = 20, 0.07


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


@dataclass(frozen=True)
class ProbeResult:
    """Scores on the split ``val``, by label.

    Attributes:
        linear_auprc, linear_auroc, knn_auroc: label -> score.
        linear_loss: label -> mean log loss of the linear probe.
        left_out: labels with fewer than 2 positives or negatives in train, or none in val.
        c: inverse strength of the linear probe's regularisation, as scikit-learn counts it.
    """

    linear_auprc: dict[str, float]
    linear_auroc: dict[str, float]
    knn_auroc: dict[str, float]
    linear_loss: dict[str, float]
    left_out: tuple[str, ...]
    c: float

    def scores(self) -> dict[str, float]:
        """The macro averages."""
        return {
            name: float(np.mean(list(getattr(self, name).values())))
            for name in ("linear_auprc", "linear_auroc", "knn_auroc", "linear_loss")
        }


@dataclass(frozen=True)
class Predictions:
    """Predictions of the probes for the V images of the split ``val``, from which scores and intervals are computed.

    Attributes:
        rows: V images; their ``dataset`` and ``subject`` name the patient.
        labels: L names.
        truth: [V, L], 1, 0 or NaN for unknown.
        linear: [V, L], log-odds.
        knn: [V, L], share of the neighbours' votes.
        c: of the linear probe.
    """

    rows: tuple[Row, ...]
    labels: tuple[str, ...]
    truth: Floats
    linear: Floats
    knn: Floats
    c: float


class Probe:
    """Labelled images, read once, each by one of the processes, and preprocessed as for inference.

    Args:
        rows: with splits ``train`` and ``val``, others are passed over; labels 1 and 0, others count as unknown.
        size: side of the square images in pixels.

    Attributes:
        rows: the N images, in the given order.
        labels: names of the L labels that can be probed.
        left_out: names of those that cannot.
        unreadable: images that are left out because they cannot be read.

    Raises:
        LlavaRadError: if a subject is in both splits, or too many images cannot be read.
        ConfigError: if no label has enough positives and negatives.
    """

    def __init__(self, rows: Sequence[Row], *, size: int) -> None:
        self.rows = tuple(row for row in rows if row.split in ("train", "val"))
        disjoint(self.rows)
        self._recipe = rad_dino(size)
        self.unreadable = Unreadable(len(self.rows), hint="leave them out of probe.manifest")
        self._images = self._read()
        self._train = torch.tensor([row.split == "train" for row in self.rows])
        names = sorted({name for row in self.rows for name in row.labels})
        table = torch.tensor(
            [
                [value if (value := row.labels.get(name)) in (0, 1) else torch.nan for name in names]
                for row in self.rows
            ],
            dtype=torch.float64,
        ).view(len(self.rows), len(names))
        enough = [self._enough(column) for column in table.t()]
        self.labels = tuple(name for name, fits in zip(names, enough, strict=True) if fits)
        self.left_out = tuple(name for name, fits in zip(names, enough, strict=True) if not fits)
        if not self.labels:
            raise ConfigError(
                "probe.manifest has no label with two positives and two negatives in train and one of each in val"
            )
        self._truth = table[:, torch.tensor(enough)]

    def _enough(self, values: torch.Tensor) -> bool:
        train, val = values[self._train], values[~self._train]
        fewest = [int((part == value).sum()) for part in (train, val) for value in (0, 1)]
        return min(fewest[:2]) >= 2 and min(fewest[2:]) >= 1

    def _read(self) -> npt.NDArray[np.uint8]:
        """Read this process's share of the images; rows of those that cannot be read are dropped on all processes."""
        from encoder.reader.sandbox import Reader

        rank, world = rank_and_world()
        images: dict[int, npt.NDArray[np.uint8]] = {}
        failed: list[tuple[int, str]] = []
        with Reader() as reader:
            for number in range(rank, len(self.rows), world):
                row = self.rows[number]
                try:
                    images[number] = reader.prepare(row.path, self._recipe, **row.reading).pixels
                except LlavaRadError as error:
                    failed.append((number, str(error)))
                    if len(failed) > self.unreadable.allowed:
                        break
        for number, reason in sorted(itertools.chain(*everyone(failed))):
            self.unreadable.add(self.rows[number], LlavaRadError(reason))
        kept = [number for number, row in enumerate(self.rows) if row.path not in self.unreadable.reasons]
        self.rows = tuple(self.rows[number] for number in kept)
        self._mine = [place for place, number in enumerate(kept) if number in images]
        return np.array([images[number] for number in kept if number in images], np.uint8)

    def run(self, encode: Encode, batch_size: int = 32) -> ProbeResult:
        """Probe an encoder; arguments as for ``features``. All processes must call, and get the first one's result."""
        features = self.features(encode, batch_size)
        return on_first(lambda: self.score(features))

    @torch.no_grad()
    def features(self, encode: Encode, batch_size: int = 32) -> torch.Tensor:
        """Features of all images, float64 [N, D] in the order of ``rows`` on the encoder's device.

        Each process computes those of its share of the images; all must call.

        Args:
            encode: [B, 3, S, S] normalised images -> [B, D] features; of a network in evaluation mode. No gradient is
                recorded.
            batch_size: images at a time.
        """
        # a process without an image learns the width from an empty one
        images = self._images if len(self._images) else np.zeros((1, self._recipe.size, self._recipe.size), np.uint8)
        parts = [
            encode(self._recipe.normalise(images[start : start + batch_size])).float()
            for start in range(0, len(images), batch_size)
        ]
        features = parts[0].new_zeros(len(self.rows), parts[0].shape[1])
        features[self._mine] = torch.cat(parts)[: len(self._mine)]
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(features)
        return features.double() if features.device.type != "mps" else features.cpu().double()  # it has no float64

    def predict(self, features: torch.Tensor) -> Predictions:
        """Fit both probes on the split ``train`` and predict the split ``val``.

        Args:
            features: [N, D] in the order of ``rows``.

        Raises:
            LlavaRadError: if the features are not finite.
        """
        if not bool(torch.isfinite(features).all()):
            raise LlavaRadError("the features of the probed images are not finite")
        fit, judge = features[self._train].double(), features[~self._train].double()
        known = (~self._truth[self._train].isnan()).double().to(fit.device)
        labels = self._truth[self._train].nan_to_num(0.0).to(fit.device)
        # a row of unknown subject is a group of its own
        indices = self._train.nonzero()[:, 0].tolist()
        groups = [(row.dataset, row.subject or i) for i in indices if (row := self.rows[i])]
        c = choose_c(fit, labels, known, groups, average_precision)
        inside, outside = standardise(fit, judge)
        weights, bias = logistic_regression(inside, labels, known, [c])
        queries, keys = (functional.normalize(part - fit.mean(0), dim=1) for part in (judge, fit))
        cosines = queries @ keys.t()
        return Predictions(
            tuple(row for row in self.rows if row.split == "val"),
            self.labels,
            self._truth[~self._train].numpy(),
            (outside @ weights[..., 0] + bias[:, 0]).cpu().numpy(),
            torch.stack([_votes(cosines, *column) for column in zip(labels.t(), known.t(), strict=True)], 1)
            .cpu()
            .numpy(),
            c,
        )

    def score(self, features: torch.Tensor) -> ProbeResult:
        """Scores of [N, D] features in the order of ``rows``; raises as ``predict``."""
        predicted = self.predict(features)
        auprc, roc, near, loss = {}, {}, {}, {}
        for column, name in enumerate(predicted.labels):
            known = ~np.isnan(predicted.truth[:, column])
            truth = predicted.truth[known, column] == 1
            auprc[name] = average_precision(truth, predicted.linear[known, column])
            roc[name] = auroc(truth, predicted.linear[known, column])
            near[name] = auroc(truth, predicted.knn[known, column])
            odds = predicted.linear[known, column]
            loss[name] = float(np.mean(np.logaddexp(0, odds) - truth * odds))
        return ProbeResult(auprc, roc, near, loss, self.left_out, predicted.c)


def _votes(cosines: torch.Tensor, labels: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Share of votes [V] for a label, of the nearest of the T images that have it: [V, T], [T], [T]."""
    labelled = known == 1
    top, indices = cosines[:, labelled].topk(min(NEIGHBOURS, int(labelled.sum())), dim=1)
    return (torch.softmax(top / NEIGHBOUR_TEMPERATURE, dim=1) * labels[labelled][indices]).sum(1)


Score = Callable[[npt.NDArray[np.bool_], npt.NDArray[np.float64]], float]

GRID = tuple(10.0**power for power in range(-5, 3))
"""Values of C to choose from, for standardised features."""
FOLDS = 5
UNDECIDED = 1e-2
"""C where there are too few subjects or positives to choose one."""


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
