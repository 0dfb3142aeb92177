"""The linear probe: one linear layer on a frozen encoder's image vector, for labels that may occur together.

The paper (E.3.1): AdamW, learning rate 5e-5, cosine schedule, batch 96, 100 epochs, the last epoch is judged;
augmented images, five runs with different seeds and training splits (tables 1, B.1), mean and standard deviation of
AUPRC. Where it is silent we use weight decay 0.01 (AdamW's default), binary cross-entropy averaged over known labels,
unscaled vectors and PyTorch's default initialisation. With ``augment=False`` the vectors are computed once, which is a
hundred times faster and the usual compromise; ``logistic`` is the penalised fit that this training approaches, without
seeds. The paper names the kinds of augmentation: horizontal flip, cropping, affine transform, colour jitter, Gaussian
noise; their strengths are ours (:mod:`encoder.probing.augmented`).

Runs differ in their images too: :mod:`encoder.probing.allocation`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from encoder.errors import LlavaRadError
from encoder.files import reported, write
from encoder.json_files import parse_json
from encoder.probing.allocation import Allocation, Floats, Split
from encoder.probing.logistic import Score, auroc, average_precision, choose_c, logistic_regression, standardise

Vectors = Callable[[int, int, npt.NDArray[np.intp]], torch.Tensor]
"""Function from a seed, an epoch and the numbers of B training images to their vectors [B, D]."""


@dataclass(frozen=True)
class LinearConfig:
    """Configuration of a linear probe; the defaults are the paper's (E.3.1).

    Attributes:
        epochs: over the training images.
        batch_size: images per step.
        learning_rate: of AdamW at the start; it decays to 0 by a cosine, step by step.
        weight_decay: of AdamW; not stated in the paper.
        seeds: one run for each; they set initial weights, order of the images, augmentation and allocation.
        augment: augment the images anew in every epoch.
    """

    epochs: int = 100
    batch_size: int = 96
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    augment: bool = True


@dataclass(frozen=True)
class LinearResult:
    """Scores of one linear probe on the evaluation images.

    Attributes:
        auprc: average precision of each label, one value per run.
        auroc: area under the ROC curve, likewise.
        positives: evaluation images with each label.
        judged: number of evaluation images.
        trained: number of training images of each split.
        c: inverse strength of the penalty of each logistic fit.
    """

    auprc: dict[str, list[float]]
    auroc: dict[str, list[float]]
    positives: dict[str, int]
    judged: int
    trained: list[int]
    c: list[float] = field(default_factory=list)
    odds: list[Floats] = field(default_factory=list, repr=False, compare=False)
    """Log-odds [J, L] of each run; NaN for images that it does not judge."""

    def macro(self, name: str, labels: Collection[str] | None = None) -> list[float]:
        """Average ``auprc`` or ``auroc`` over labels, by default all, for each run."""
        found: dict[str, list[float]] = getattr(self, name)
        chosen = [values for label, values in found.items() if labels is None or label in labels]
        return [float(np.mean(values)) for values in zip(*chosen, strict=True)]


@dataclass(frozen=True)
class Head:
    """A fitted linear layer.

    Attributes:
        weight: [L, D].
        bias: [L].
        c: inverse strength of the penalty of a logistic fit.
    """

    weight: Floats
    bias: Floats
    c: float | None = None

    def odds(self, vectors: npt.NDArray[np.float32]) -> Floats:
        """Return the log-odds [N, L] of image vectors [N, D]."""
        found: Floats = vectors.astype(np.float64) @ self.weight.T + self.bias
        return found


def train(
    split: Split,
    vectors: Vectors,
    width: int,
    config: LinearConfig,
    seed: int,
    *,
    progress: Callable[[int], None] = lambda steps: None,
    state: Path | None = None,
) -> Head:
    """Train the layer of one run; its last epoch counts.

    Args:
        split: T training images.
        vectors: of training images; called in every step, so that they may be augmented.
        width: length D of a vector.
        config: of the training.
        seed: of the run.
        progress: called with the number of completed epochs.
        state: file of the run after its last epoch, from which another call with the same arguments continues; that of
            other arguments is passed over.

    Raises:
        LlavaRadError: if the training diverges.
    """
    truth = torch.tensor(split.truth(split.train))
    known, target = ~truth.isnan(), truth.nan_to_num(0.0)
    generator = torch.Generator().manual_seed(seed)
    layer = _layer(width, len(split.labels), generator)
    optimizer = torch.optim.AdamW(layer, lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = config.epochs * -(-len(truth) // config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    key = hashlib.sha256(f"{config} {seed} {split.labels} {[row.number for row in split.train]}".encode())
    run = _Run(key.hexdigest(), layer, optimizer, schedule, generator)
    first = 0 if state is None else run.restore(state)
    progress(first)
    for epoch in range(first, config.epochs):
        order = torch.randperm(len(truth), generator=generator)
        for batch in order.split(config.batch_size):
            logits = functional.linear(vectors(seed, epoch, batch.numpy()), *layer)
            losses = functional.binary_cross_entropy_with_logits(logits, target[batch].float(), reduction="none")
            loss = losses[known[batch]].mean() if bool(known[batch].any()) else losses.sum() * 0
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if state is not None:
            run.save(state, epoch + 1)
        progress(1)
    weight, bias = (part.detach().double().numpy() for part in layer)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise LlavaRadError("the training of the linear layer diverged", hint="choose a smaller learning rate")
    return Head(weight, bias)


def fit(split: Split, vectors: npt.NDArray[np.float32], score: Score = average_precision) -> Head:
    """Fit penalised logistic regression on standardised vectors; cross-validation by subject chooses the penalty.

    Args:
        split: T training images.
        vectors: [T, D].
        score: by which the penalty is chosen.
    """
    given = torch.from_numpy(vectors).double()
    truth = torch.tensor(split.truth(split.train))
    known, target = (~truth.isnan()).double(), truth.nan_to_num(0.0)
    groups = [(row.dataset, row.subject or number) for number, row in enumerate(split.train)]
    c = choose_c(given, target, known, groups, score)
    mean, std = given.mean(0), given.std(0, correction=0).clamp_min(1e-6)  # those of standardise
    weights, bias = logistic_regression(standardise(given)[0], target, known, [c])
    weight = weights[..., 0] / std[:, None]
    return Head(weight.t().numpy(), (bias[:, 0] - mean @ weight).numpy(), c)


def logistic(split: Split, vectors: npt.NDArray[np.float32], judged: npt.NDArray[np.float32]) -> LinearResult:
    """Fit penalised logistic regression and evaluate it.

    Args:
        split: T training and J evaluation images.
        vectors: [T, D].
        judged: [J, D].
    """
    head = fit(split, vectors)
    return judge(Allocation((), (), "whole", (split,), split.judged), [head.odds(judged)], [head])


def judge(allocation: Allocation, odds: Sequence[Floats], heads: Sequence[Head] = ()) -> LinearResult:
    """Score the log-odds of each split's judged images [its J, L]; unknown labels are ignored."""
    truth, runs = allocation.truth(), allocation.runs(odds)
    auprc: dict[str, list[float]] = {}
    area: dict[str, list[float]] = {}
    positives = {}
    for column, label in enumerate(allocation.labels):
        positives[label] = int((truth[:, column] == 1).sum())
        auprc[label], area[label] = [], []
        for scores in runs:
            known = ~np.isnan(truth[:, column]) & ~np.isnan(scores[:, column])
            labels = truth[known, column] == 1
            auprc[label].append(average_precision(labels, scores[known, column]))
            area[label].append(auroc(labels, scores[known, column]))
    trained = [len(split.train) for split in allocation.splits]
    c = [head.c for head in heads if head.c is not None]
    return LinearResult(auprc, area, positives, len(allocation.judged), trained, c, runs)


def heads_file(heads: Sequence[Head], labels: Sequence[str], encoder: str) -> bytes:
    """Return a safetensors file of the heads of R splits: ``weight`` [R, L, D] and ``bias`` [R, L].

    Args:
        heads: with the same L labels.
        labels: their names.
        encoder: key of encoder and recipe, which a reader has to give.
    """
    from safetensors.numpy import save

    tensors = {name: np.stack([getattr(head, name) for head in heads]) for name in ("weight", "bias")}
    data: bytes = save(tensors, {"labels": json.dumps(list(labels)), "encoder": encoder})
    return data


def read_heads(file: Path, encoder: str) -> tuple[tuple[str, ...], list[Head]]:
    """Read a file of :func:`heads_file`: labels and heads.

    Raises:
        LlavaRadError: if it cannot be read, or is of another encoder or recipe.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy") as opened:
            facts = opened.metadata() or {}
            labels = tuple(parse_json(facts["labels"]))
            weight, bias = opened.get_tensor("weight"), opened.get_tensor("bias")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise LlavaRadError(f"the heads of a linear probe cannot be read ({type(error).__name__})") from None
    if facts.get("encoder") != encoder:
        raise LlavaRadError("the heads belong to another encoder or recipe")
    return labels, [Head(one, other) for one, other in zip(weight, bias, strict=True)]


class _Run(NamedTuple):
    """A training in progress; the key tells what it is of."""

    key: str
    layer: list[torch.Tensor]
    optimizer: torch.optim.AdamW
    schedule: torch.optim.lr_scheduler.CosineAnnealingLR
    generator: torch.Generator

    def save(self, file: Path, epochs: int) -> None:
        """Write the state after some epochs."""
        content = {
            "key": self.key, "epochs": epochs, "layer": [part.detach() for part in self.layer],
            "optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
        }  # fmt: skip
        data = io.BytesIO()
        torch.save(content, data)
        with reported("the state of the probe"):
            write(file, data.getvalue())

    def restore(self, file: Path) -> int:
        """Restore the state, and return its number of epochs; 0 without a file of this training.

        Raises:
            LlavaRadError: if the file is damaged.
        """
        if not file.is_file():
            return 0
        try:
            content = torch.load(file, weights_only=True)
            if content["key"] != self.key:
                return 0
            with torch.no_grad():
                for part, stored in zip(self.layer, content["layer"], strict=True):
                    part.copy_(stored)
            self.optimizer.load_state_dict(content["optimizer"])
            self.schedule.load_state_dict(content["schedule"])
            self.generator.set_state(content["generator"])
            return int(content["epochs"])
        except Exception as error:  # unpickling tensors raises types of its own, which only pickle exports
            hint = f"remove {file.name} in the folder 'work'"
            raise LlavaRadError(f"the state of the probe is damaged ({type(error).__name__})", hint=hint) from None


def _layer(width: int, labels: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Initialise weight and bias like ``nn.Linear``, from a generator of their own."""
    bound = width**-0.5
    shapes = ((labels, width), (labels,))
    return [((torch.rand(shape, generator=generator) * 2 - 1) * bound).requires_grad_() for shape in shapes]
