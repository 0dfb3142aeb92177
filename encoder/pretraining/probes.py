"""Frozen probes: score the teacher's CLS features by a linear classifier and by nearest neighbours.

The published RAD-DINO was chosen in this way: iteration 35,000 of 100,000, by linear probing on validation sets (model
card).

The linear classifier is logistic regression on standardised features. Cross-validation on the training images, each
patient in one fold, chooses one penalty for all labels. The neighbours vote as in DINO's protocol (Caron et al. 2021):
20 nearest by cosine, weighted with exp(cosine / 0.07); features are centred first.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from encoder.datasets.manifest import Row
from encoder.datasets.splits import disjoint
from encoder.errors import ConfigError, LlavaRadError
from encoder.preprocessing import rad_dino
from encoder.pretraining.config import PretrainingConfig, ProbeConfig
from encoder.pretraining.vit import VisionTransformer
from encoder.probing.logistic import (
    Floats,
    auroc,
    average_precision,
    choose_c,
    logistic_regression,
    standardise,
)
from encoder.probing.vectors import Unreadable
from encoder.runs.distributed import everyone, on_first, rank_and_world, whole

Encode = Callable[[torch.Tensor], torch.Tensor]

NEIGHBOURS, NEIGHBOUR_TEMPERATURE = 20, 0.07


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
            torch.stack([votes(cosines, *column) for column in zip(labels.t(), known.t(), strict=True)], 1)
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


def votes(cosines: torch.Tensor, labels: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Share of votes [V] for a label, of the nearest of the T images that have it.

    Args:
        cosines: [V, T], of the judged and the labelled images.
        labels: [T], 1 or 0.
        known: [T], 1 where the label is known.
    """
    labelled = known == 1
    top, indices = cosines[:, labelled].topk(min(NEIGHBOURS, int(labelled.sum())), dim=1)
    return (torch.softmax(top / NEIGHBOUR_TEMPERATURE, dim=1) * labels[labelled][indices]).sum(1)


class Selection:
    """Choice of the exported teacher by its probes, and the end of a run that finds no better one (``probe.select``).

    Args:
        config: of the probes.

    Attributes:
        best: step and score of the best teacher so far; None before the first, and where the last one is exported.
    """

    def __init__(self, config: ProbeConfig) -> None:
        self._config = config
        self.best: tuple[int, float] | None = None

    def better(self, step: int, scores: dict[str, float]) -> bool:
        """Take the scores of a step's teacher; returns True if it is the best so far. The untrained start never is."""
        if self._config.select == "last" or not step:
            return False
        sign, name = (-1, "linear_loss") if self._config.select == "loss" else (1, "linear_auprc")
        better = self.best is None or sign * scores[name] > sign * self.best[1]
        self.best = (step, scores[name]) if better else self.best
        return better

    def stalled(self, step: int) -> bool:
        """Return whether so many probes as ``probe.patience`` have passed since the best one."""
        patience, every = self._config.patience, self._config.every
        return patience is not None and self.best is not None and step // every - self.best[0] // every >= patience


def fitting_seconds(images: int, width: int, labels: int, device: torch.device) -> float:
    """Measure the seconds of fitting the linear probe, on fewer images and labels where there are many.

    Features and labels are drawn with common causes: on plain noise the solver would be done at once. The time is taken
    for linear in images and labels, and constant for the decomposition of the features.

    Args:
        images: to fit to.
        width: of the features.
        labels: number of them.
        device: of the computation.
    """
    fewer, columns = min(max(images, 40), 800), min(max(labels, 1), 2)
    rng = torch.Generator().manual_seed(0)

    def seconds(rows: int) -> float:
        causes = torch.randn(rows, 30, generator=rng, dtype=torch.float64)
        mix = torch.randn(30, width, generator=rng, dtype=torch.float64) / torch.arange(1, 31)[:, None]
        features = (causes @ mix + 0.1 * torch.randn(rows, width, generator=rng, dtype=torch.float64)).to(device)
        wanted = (causes[:, :columns] + torch.randn(rows, columns, generator=rng) > 1).double()
        wanted[:2] = torch.tensor([[0.0], [1.0]])
        wanted, begin = wanted.to(device), time.perf_counter()
        known = torch.ones_like(wanted)
        c = choose_c(features, wanted, known, range(rows), average_precision)
        (inside,) = standardise(features)
        weights, _ = logistic_regression(inside, wanted, known, [c])
        weights.sum().item()  # waits for the device
        return time.perf_counter() - begin

    seconds(20)  # the first call loads libraries
    half, whole = seconds(fewer // 2), seconds(fewer)
    each = max(0.0, whole - half) / (fewer - fewer // 2)
    return max(0.0, whole - each * fewer) + each * max(images, 40) * max(labels, 1) / columns


def score_teacher(
    probe: Probe, config: PretrainingConfig, teacher: VisionTransformer, device: torch.device
) -> dict[str, float]:
    """Probe a backbone in training as it would be exported: all processes must call, and get the same scores.

    Args:
        probe: labelled images.
        config: of the run.
        teacher: whole, or spread over the processes.
        device: where to compute, in bfloat16 on CUDA if the run does.
    """
    backbone = VisionTransformer(config.model).to(device).eval()
    backbone.load_state_dict({name: whole(tensor) for name, tensor in teacher.state_dict().items()})
    half = device.type == "cuda" and config.engine.precision == "bf16"

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return backbone.features(pixels.to(device))[0]

    return probe.run(encode).scores()
