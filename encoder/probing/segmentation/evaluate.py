"""Evaluation of a segmentation head: Dice by structure and by group of patients, few-shot curves.

Edge cases of Dice:

- both empty: no value (NaN), since overlap is undefined.
- truth empty, prediction not: 0 by the formula, but not part of a mean: the paper's means are "across the cases in the
  dataset with masks" (table 3). Such images are counted as false alarms.
- prediction empty, truth not: 0, and part of the mean.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from encoder.backbones.base import FrozenEncoder
from encoder.datasets.columns import group_of
from encoder.errors import ConfigError
from encoder.preprocessing import Recipe
from encoder.probing.segmentation.data import SegmentationSet
from encoder.probing.segmentation.model import (
    Inputs,
    SegmentationConfig,
    Segmenter,
    check_encoder,
    device_of,
    keep_inputs,
    predict,
)
from encoder.probing.segmentation.train import Options, head_layers, train_segmentation

CHUNK = 64
"""Images whose masks are unpacked at a time."""
MIN_GROUP = 30
"""Images with a value from which on a group can be the worst one."""
NUMBERS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def dice(prediction: Bools, truth: Bools) -> Floats:
    """Compute ``2 |A and B| / (|A| + |B|)`` of masks [..., H, W]; NaN if both are empty.

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
        mean: over ``images``; NaN if there are none.
        sd: standard deviation over them (n - 1 in the denominator); NaN below two.
        images: number of images whose truth has the structure.
    """

    mean: float
    sd: float
    images: int

    @classmethod
    def of(cls, values: Floats) -> DiceScore:
        """Summarise values [N] without NaN."""
        known = values[~np.isnan(values)]
        mean = float(known.mean()) if len(known) else math.nan
        return cls(mean, float(known.std(ddof=1)) if len(known) > 1 else math.nan, len(known))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; None replaces NaN."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class GroupScores:
    """Dice by group of patients (paper C.6.1: the average, and the worst group).

    Attributes:
        groups: name -> score over that group's images; images of unknown group ("") are ignored.
        mean: mean over all images that have a group, as in the paper's "avg".
        worst: name of the group with the lowest mean among those of at least ``minimum`` images; "" if fewer than two
            groups have as many.
        minimum: number of images from which on a group can be the worst.
    """

    groups: dict[str, DiceScore]
    mean: float
    worst: str
    minimum: int

    @classmethod
    def of(cls, values: Floats, groups: Sequence[str], minimum: int = MIN_GROUP) -> GroupScores:
        """Summarise values [N] by each image's group."""
        names = np.array(groups, dtype=object)
        scores = {name: DiceScore.of(values[names == name]) for name in sorted({*groups} - {""})}
        judged = {name: score for name, score in scores.items() if score.images >= max(1, minimum)}
        worst = min(judged, key=lambda name: (judged[name].mean, name)) if len(judged) > 1 else ""
        return cls(scores, DiceScore.of(values[names != ""]).mean, worst, minimum)

    @property
    def worst_mean(self) -> float:
        """Mean of the worst group; NaN if there is none."""
        return self.groups[self.worst].mean if self.worst else math.nan

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "mean": None if math.isnan(self.mean) else self.mean,
            "worst_group": self.worst or None,
            "worst_mean": None if not self.worst else self.worst_mean,
            "minimum": self.minimum,
            "groups": {name: score.to_dict() for name, score in self.groups.items()},
        }


@dataclass(frozen=True)
class SegmentationResult:
    """Dice of a segmentation head on test images.

    Attributes:
        structures: name -> Dice over the images whose truth has the structure.
        together: Dice over images of each image's mean over its structures (the paper's "lungs" and "lung zones" are
            such means over left and right, and over six zones).
        groups: attribute of the patient -> scores of that mean by group.
        empty: name -> number of images known not to have the structure.
        false_alarms: name -> number of these with a predicted mask.
        values: [N, K] Dice of each image; NaN if its truth is unknown or empty.
        head: name of the head; "" for masks from elsewhere.
        parameters: number of trainable parameters; None if it is not known.
        epoch: the chosen one; None if there is none.
    """

    structures: dict[str, DiceScore]
    together: DiceScore
    groups: dict[str, GroupScores]
    empty: dict[str, int]
    false_alarms: dict[str, int]
    values: npt.NDArray[np.float64] = field(repr=False, compare=False)
    head: str = ""
    parameters: int | None = None
    epoch: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data without the values of single images."""
        return {
            "structures": {name: score.to_dict() for name, score in self.structures.items()},
            "together": self.together.to_dict(),
            "groups": {name: scores.to_dict() for name, scores in self.groups.items()},
            "empty": dict(self.empty),
            "false_alarms": dict(self.false_alarms),
            "head": self.head,
            "parameters": self.parameters,
            "epoch": self.epoch,
        }


def evaluate(
    segmenter: Segmenter,
    encoder: FrozenEncoder | None,
    data: SegmentationSet,
    *,
    attributes: Sequence[str] = (),
    minimum: int = MIN_GROUP,
    batch_size: int = 16,
    device: torch.device | str | None = None,
    inputs: Inputs | None = None,
) -> SegmentationResult:
    """Evaluate a head on images of other subjects than those of its training.

    Args:
        segmenter: trained head.
        encoder: the one of its training; None for a head without encoder.
        data: N images with masks of the segmenter's structures.
        attributes: of the patients, to group by, e.g. ``ethnicity``, or ``age`` in bands; patients without the
            attribute are in no group.
        minimum: images from which on a group can be the worst.
        batch_size: images per batch.
        device: as for ``predict``.
        inputs: kept activations of these images.

    Raises:
        LlavaRadError: as ``predict``, or masks of a structure are missing.
    """
    check_encoder(segmenter, encoder)
    data.check_recipe(segmenter.recipe)

    def found(numbers: npt.NDArray[np.intp]) -> Bools:
        part = None if inputs is None else inputs.subset(numbers)
        return predict(
            segmenter, encoder, data.images[numbers], batch_size=batch_size, device=device, inputs=part, check=False
        )

    data = data.select(segmenter.structures)
    result = score(data, found, attributes=attributes, minimum=minimum)
    return replace(result, head=segmenter.config.head, parameters=segmenter.parameters, epoch=segmenter.epoch)


def score(
    data: SegmentationSet,
    found: Callable[[npt.NDArray[np.intp]], Bools],
    *,
    attributes: Sequence[str] = (),
    minimum: int = MIN_GROUP,
) -> SegmentationResult:
    """Compare masks with the truth, whatever they come from.

    Args:
        data: N images with masks.
        found: computes masks [B, K, S, S] of the images with these numbers.
        attributes: of the patients, to group by.
        minimum: images from which on a group can be the worst.
    """
    shape = (len(data), len(data.structures))
    values, inside, drawn = np.full(shape, np.nan), np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    for start in range(0, len(data), CHUNK):
        numbers = np.arange(start, min(start + CHUNK, len(data)))
        masks, truth = found(numbers), data.masks(numbers)
        values[numbers], inside[numbers], drawn[numbers] = dice(masks, truth), truth.any((2, 3)), masks.any((2, 3))
    values[~(data.known & inside)] = np.nan
    absent = data.known & ~inside
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an image without any structure
        means = np.nanmean(values, axis=1)
    return SegmentationResult(
        structures={name: DiceScore.of(values[:, index]) for index, name in enumerate(data.structures)},
        together=DiceScore.of(means),
        groups={
            name: GroupScores.of(means, [group_of(name, person.get(name, "")) for person in data.attributes], minimum)
            for name in attributes
        },
        empty={name: int(absent[:, index].sum()) for index, name in enumerate(data.structures)},
        false_alarms={name: int((absent & drawn)[:, index].sum()) for index, name in enumerate(data.structures)},
        values=values,
    )


@dataclass(frozen=True)
class FewShotPoint:
    """One run of the curve.

    Attributes:
        images: number of training images.
        seed: of the choice of images, and of the run.
        dice: over the test images, of each image's mean over structures.
        structures: name -> Dice.
    """

    images: int
    seed: int
    dice: DiceScore
    structures: dict[str, DiceScore]

    @classmethod
    def of(cls, images: int, seed: int, result: SegmentationResult) -> FewShotPoint:
        """Take the scores of a run's result."""
        return cls(images, seed, result.together, result.structures)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        by_name = {name: score.to_dict() for name, score in self.structures.items()}
        return asdict(self) | {"dice": self.dice.to_dict(), "structures": by_name}


def few_shot(
    train: SegmentationSet,
    val: SegmentationSet,
    test: SegmentationSet,
    encoder: FrozenEncoder | None,
    recipe: Recipe,
    structures: Sequence[str],
    config: SegmentationConfig,
    *,
    numbers: Sequence[int] = NUMBERS,
    seeds: Sequence[int] = (0, 1, 2),
    progress: Callable[[FewShotPoint], None] = lambda point: None,
    device: torch.device | str | None = None,
    inputs: Sequence[Inputs] | None = None,
    options: Options | None = None,
) -> list[FewShotPoint]:
    """Train on n images and evaluate, for each n and seed (paper C.2, figure C.2); the last point has all images.

    For one seed, smaller sets are contained in larger ones. All validation images choose the epoch, whatever n is: the
    paper only says that the number of training images varies. ``config.least_steps`` gives runs on few images as many
    steps as runs on many (otherwise 100 epochs of one image are 100 steps). Without augmentation features are computed
    once for all runs.

    Args:
        train, val, test: images of different subjects.
        encoder, recipe, structures, config, device: as for ``train_segmentation``; the seed is replaced.
        numbers: of training images; too large ones are ignored.
        seeds: one run per seed.
        progress: called after each run.
        inputs: precomputed activations of the three sets, see ``keep_inputs``; nothing is augmented then.
        options: as for ``train_segmentation``.

    Raises:
        ConfigError: if a number is below 1.
        LlavaRadError: as ``train_segmentation``.
    """
    if any(number < 1 for number in numbers):
        raise ConfigError("the few-shot curve starts at one training image")
    device, kept = device_of(encoder, device), inputs
    if kept is None and config.augmentation is None:
        images_of = [one.images for one in (train, val, test)]
        kept = keep_inputs(images_of, encoder, recipe, head_layers(config), device, gib=config.cache_gib)
    points = []
    for images in sorted({number for number in numbers if number < len(train)} | {len(train)}):
        for seed in seeds:
            chosen = np.random.default_rng((seed, len(train))).permutation(len(train))[:images]
            part = None if kept is None else (kept[0].subset(chosen), kept[1])
            segmenter = train_segmentation(
                train.subset(chosen), val, encoder, recipe, structures, replace(config, seed=seed), inputs=part,
                device=device, options=options,
            )  # fmt: skip
            result = evaluate(segmenter, encoder, test, device=device, inputs=None if kept is None else kept[2])
            points.append(FewShotPoint.of(images, seed, result))
            progress(points[-1])
    return points
