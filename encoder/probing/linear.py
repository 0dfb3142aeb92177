"""The linear probe: one linear layer on a frozen encoder's image vector, for labels that may occur together.

The paper (E.3.1): AdamW, learning rate 5e-5, cosine schedule, batch 96, 100 epochs, the last epoch is judged;
augmented images, five runs with different seeds, mean and standard deviation of AUPRC. Where it is silent we use
weight decay 0.01 (AdamW's default), binary cross-entropy averaged over known labels, unscaled vectors and
PyTorch's default initialisation. With ``augment=False`` the vectors are computed once, which is a
hundred times faster and the usual compromise; ``logistic`` is the penalised fit that this training approaches, without
seeds. The paper names the kinds of augmentation: horizontal flip, cropping, affine transform, colour jitter, Gaussian
noise; their strengths are ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from encoder.backbones.base import FrozenEncoder
from encoder.datasets.manifest import Row
from encoder.datasets.splits import disjoint
from encoder.errors import LlavaRadError
from encoder.files import DIGESTS, Digests, writing_path
from encoder.preprocessing import Recipe
from encoder.pretraining.probes import auroc, average_precision, choose_c, logistic_regression, standardise
from encoder.probing.vectors import CHUNK, Progress, prepared
from encoder.reader.sandbox import Reader

Floats = npt.NDArray[np.float64]
Vectors = Callable[[int, npt.NDArray[np.intp]], torch.Tensor]
"""Function from an epoch and the numbers of B training images to their vectors [B, D]."""
CROP, DEGREES, SHIFT, ZOOM, SHEAR = (0.8, 1.0), 10.0, 0.05, (0.9, 1.1), 5.0
"""Share of the area that a crop keeps; rotation in degrees; shift as share of a side; scale; shear in degrees."""
BRIGHTNESS, CONTRAST, NOISE = 0.2, 0.2, 0.02
"""Largest relative changes; standard deviation of the noise, of grey values between 0 and 1."""


@dataclass(frozen=True)
class LinearConfig:
    """Configuration of a linear probe; the defaults are the paper's (E.3.1).

    Attributes:
        epochs: over the training images.
        batch_size: images per step.
        learning_rate: of AdamW at the start; it decays to 0 by a cosine, step by step.
        weight_decay: of AdamW; not stated in the paper.
        seeds: one run for each; they set initial weights and order of the images.
        augment: augment the images anew in every epoch.
    """

    epochs: int = 100
    batch_size: int = 96
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    augment: bool = True


@dataclass(frozen=True)
class Split:
    """Labelled images for training and evaluation.

    Attributes:
        train: T images.
        judged: J evaluation images of other subjects.
        labels: names of the L labels that have both classes in both parts.
        left_out: names of the other labels.
        judged_on: split of the evaluation images, ``test`` or ``val``.
    """

    train: tuple[Row, ...]
    judged: tuple[Row, ...]
    labels: tuple[str, ...]
    left_out: tuple[str, ...]
    judged_on: str

    @classmethod
    def of(cls, rows: Sequence[Row], labels: Sequence[str] = ()) -> Split:
        """Select training and test images of a manifest; ``val`` replaces a missing ``test``.

        Args:
            rows: with splits and labels; 1 and 0 count, others are unknown.
            labels: names; empty for all.

        Raises:
            LlavaRadError: if a split is missing, a subject is in two of them, or no label can be evaluated.
        """
        disjoint(rows)
        name = next((name for name in ("test", "val") if any(row.split == name for row in rows)), "")
        train = tuple(row for row in rows if row.split == "train")
        judged = tuple(row for row in rows if row.split == name)
        if not name or not train:
            raise LlavaRadError("the manifest needs images of the split train, and of test or val")
        known = sorted({label for row in rows for label in row.labels})
        if odd := [label for label in labels if label not in known]:
            raise LlavaRadError(f"the manifest has no label {odd[0]!r}", hint=f"it has {', '.join(known) or 'none'}")
        wanted = list(labels) or known
        usable = [label for label in wanted if all(_both(part, label) for part in (train, judged))]
        if not usable:
            raise LlavaRadError("no label of the manifest is both present and absent in the training and judged images")
        left_out = tuple(label for label in wanted if label not in usable)
        return cls(train, judged, tuple(usable), left_out, name)

    def without(self, absent: Collection[Path]) -> Split:
        """Leave images out by their paths, and labels that are no longer both present and absent.

        Raises:
            LlavaRadError: as :meth:`of`.
        """
        if not absent:
            return self
        rows = [row for row in (*self.train, *self.judged) if row.path not in absent]
        return Split.of(rows, self.labels)

    def truth(self, rows: Sequence[Row]) -> Floats:
        """Return labels [N, L]: 1, 0, or NaN if unknown."""
        return np.array([[_value(row, label) for label in self.labels] for row in rows], np.float64)


@dataclass(frozen=True)
class LinearResult:
    """Scores of one linear probe on the evaluation images.

    Attributes:
        auprc: average precision of each label, one value per seed (or a single one).
        auroc: area under the ROC curve, likewise.
        positives: evaluation images with each label.
        judged: number of evaluation images.
        trained: number of training images.
        c: inverse strength of the penalty of the logistic fit.
    """

    auprc: dict[str, list[float]]
    auroc: dict[str, list[float]]
    positives: dict[str, int]
    judged: int
    trained: int
    c: float | None = None
    odds: list[Floats] = field(default_factory=list, repr=False, compare=False)
    """Log-odds [J, L] of each seed."""

    def macro(self, name: str) -> list[float]:
        """Average ``auprc`` or ``auroc`` over labels, for each seed."""
        return [float(np.mean(values)) for values in zip(*getattr(self, name).values(), strict=True)]


def train(
    split: Split,
    vectors: Vectors,
    judged: npt.NDArray[np.float32],
    config: LinearConfig,
    *,
    progress: Callable[[int], None] = lambda steps: None,
) -> LinearResult:
    """Train one probe per seed and evaluate the last epoch.

    Args:
        split: T training and J evaluation images.
        vectors: of training images; called in every step, so that they may be augmented.
        judged: [J, D] vectors of the evaluation images, not augmented.
        config: of the training.
        progress: called with the number of completed epochs.
    """
    truth = torch.tensor(split.truth(split.train))
    known, target = ~truth.isnan(), truth.nan_to_num(0.0)
    images = torch.from_numpy(judged)
    odds = []
    for seed in config.seeds:
        generator = torch.Generator().manual_seed(seed)
        layer = _layer(images.shape[1], len(split.labels), generator)
        optimizer = torch.optim.AdamW(layer, lr=config.learning_rate, weight_decay=config.weight_decay)
        steps = config.epochs * -(-len(truth) // config.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for epoch in range(config.epochs):
            order = torch.randperm(len(truth), generator=generator)
            for batch in order.split(config.batch_size):
                logits = functional.linear(vectors(epoch, batch.numpy()), *layer)
                losses = functional.binary_cross_entropy_with_logits(logits, target[batch].float(), reduction="none")
                loss = losses[known[batch]].mean() if bool(known[batch].any()) else losses.sum() * 0
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            progress(1)
        with torch.no_grad():
            odds.append(functional.linear(images, *layer).double().numpy())
    return judge(split, odds)


def logistic(split: Split, vectors: npt.NDArray[np.float32], judged: npt.NDArray[np.float32]) -> LinearResult:
    """Fit penalised logistic regression on standardised vectors; cross-validation by subject chooses the penalty.

    Args:
        split: T training and J evaluation images.
        vectors: [T, D].
        judged: [J, D].
    """
    fit, other = torch.from_numpy(vectors).double(), torch.from_numpy(judged).double()
    truth = torch.tensor(split.truth(split.train))
    known, target = (~truth.isnan()).double(), truth.nan_to_num(0.0)
    groups = [(row.dataset, row.subject or number) for number, row in enumerate(split.train)]
    c = choose_c(fit, target, known, groups, average_precision)
    inside, outside = standardise(fit, other)
    weights, bias = logistic_regression(inside, target, known, [c])
    return judge(split, [(outside @ weights[..., 0] + bias[:, 0]).numpy()], c=c)


def judge(split: Split, odds: Sequence[Floats], *, c: float | None = None) -> LinearResult:
    """Score log-odds [J, L] of each seed; unknown labels are ignored."""
    truth = split.truth(split.judged)
    auprc: dict[str, list[float]] = {}
    area: dict[str, list[float]] = {}
    positives = {}
    for column, label in enumerate(split.labels):
        known = ~np.isnan(truth[:, column])
        labels = truth[known, column] == 1
        positives[label] = int(labels.sum())
        auprc[label] = [average_precision(labels, scores[known, column]) for scores in odds]
        area[label] = [auroc(labels, scores[known, column]) for scores in odds]
    return LinearResult(auprc, area, positives, len(split.judged), len(split.train), c, list(odds))


def transform(size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Build the augmentation of grey values [1, S, S] in 0..1; it draws from torch's global generator."""
    from torchvision.transforms import v2

    steps: Any = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomResizedCrop(size, scale=CROP, ratio=(0.95, 1.05), antialias=True),
            v2.RandomAffine(DEGREES, translate=(SHIFT, SHIFT), scale=ZOOM, shear=SHEAR, interpolation=_bilinear()),
            v2.ColorJitter(BRIGHTNESS, CONTRAST),
            v2.GaussianNoise(0.0, NOISE),
        ]
    )
    return lambda image: steps(image)


def augment(image: npt.NDArray[np.uint8], apply: Callable[[torch.Tensor], torch.Tensor], seed: int) -> torch.Tensor:
    """Augment an image [S, S] uint8 in the same way for the same seed; torch's own generator is left unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed = apply(torch.from_numpy(image).float()[None] / 255)
    return (changed[0].clamp(0, 1) * 255).round().to(torch.uint8)


class AugmentedVectors:
    """Vectors of augmented training images, computed in every step; a ``vectors`` argument of :func:`train`.

    Args:
        encoder: frozen.
        rows: T training images.
        recipe: preprocessing before the augmentation.
        cache: folder for the prepared images.
        seed: of the augmentation, together with epoch and image.
        device: of the encoder.
        progress: called with the number of prepared images.
        digests: of the image files; default: those that ``cache`` remembers.

    Raises:
        LlavaRadError: if an image cannot be read, or the cache cannot be used.
    """

    def __init__(
        self,
        encoder: FrozenEncoder,
        rows: Sequence[Row],
        recipe: Recipe,
        cache: Path,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        progress: Progress = lambda number: None,
        digests: Digests | None = None,
    ) -> None:
        self._encoder, self._recipe, self._seed, self._device = encoder.to(device), recipe, seed, device
        self._apply = transform(recipe.size)
        self._images = _kept(rows, recipe, cache, progress, digests or Digests(cache / DIGESTS))

    def __call__(self, epoch: int, numbers: npt.NDArray[np.intp]) -> torch.Tensor:
        """Return the vectors [B, D] of the images with these numbers."""
        images = [
            augment(self._images[number], self._apply, hash((self._seed, epoch, int(number))) % (1 << 62))
            for number in numbers
        ]
        with torch.no_grad():
            found: torch.Tensor = self._encoder(self._recipe.normalise(torch.stack(images)).to(self._device)).cls
        return found.float().cpu()


def _layer(width: int, labels: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Initialise weight and bias like ``nn.Linear``, from a generator of their own."""
    bound = width**-0.5
    shapes = ((labels, width), (labels,))
    return [((torch.rand(shape, generator=generator) * 2 - 1) * bound).requires_grad_() for shape in shapes]


def _value(row: Row, label: str) -> float:
    value = row.labels.get(label)
    return float(value) if value in (0, 1) else np.nan


def _both(rows: Sequence[Row], label: str) -> bool:
    return {0.0, 1.0} <= {_value(row, label) for row in rows}


def _kept(
    rows: Sequence[Row], recipe: Recipe, cache: Path, progress: Progress, digests: Digests
) -> npt.NDArray[np.uint8]:
    """Prepare the images [T, S, S] in a memory-mapped file: a data set need not fit into memory."""
    found = digests.of([row.path for row in rows])
    keys = [row.content(digest) for row, digest in zip(rows, found, strict=True)]
    file = cache / f"{hashlib.sha256(f'{recipe}{keys}'.encode()).hexdigest()[:32]}.pixels.npy"
    try:
        if not file.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            shape = (len(rows), recipe.size, recipe.size)
            with writing_path(file) as temporary, Reader() as reader:
                images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
                for start in range(0, len(rows), CHUNK):
                    chunk = rows[start : start + CHUNK]
                    read = prepared(chunk, recipe, reader, digests=found[start : start + CHUNK])
                    images[start : start + CHUNK] = np.stack([image.pixels for image in read if image is not None])
                    progress(len(chunk))
                images.flush()
        kept: npt.NDArray[np.uint8] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise LlavaRadError(f"prepared images cannot be kept ({type(error).__name__})") from None
    return kept


def _bilinear() -> Any:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode.BILINEAR
