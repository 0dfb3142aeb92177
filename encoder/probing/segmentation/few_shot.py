"""How Dice grows with the number of annotated training images (paper C.2, figure C.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from encoder.backbones.base import FrozenEncoder
from encoder.errors import ConfigError
from encoder.preprocessing import Recipe
from encoder.probing.dice import DiceScore
from encoder.probing.segmentation.config import SegmentationConfig
from encoder.probing.segmentation.data import SegmentationSet
from encoder.probing.segmentation.evaluate import SegmentationResult, evaluate
from encoder.probing.segmentation.inputs import Inputs, keep_inputs
from encoder.probing.segmentation.model import place_of
from encoder.probing.segmentation.train import head_layers, train_segmentation

NUMBERS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


@dataclass(frozen=True)
class FewShotPoint:
    """One run of the curve.

    Attributes:
        images: that were trained on.
        seed: which images, and the run's own seed.
        dice: over the test images, of each image's mean over structures.
        structures: name -> Dice.
    """

    images: int
    seed: int
    dice: DiceScore
    structures: dict[str, DiceScore]

    @classmethod
    def of(cls, images: int, seed: int, result: SegmentationResult) -> FewShotPoint:
        """From what a run came to."""
        return cls(images, seed, result.together, result.structures)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
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
) -> list[FewShotPoint]:
    """Train on n images and judge, for each n and seed; the last point has all images.

    For one seed, fewer images are contained in more. All validation images choose the epoch, whatever n is: the paper
    says no more than that the number of training images varies. With ``config.least_steps`` a run on few images has
    as many steps as one on many (100 epochs of one image are 100 steps otherwise). Without augmentation features are
    computed once for all runs.

    Args:
        train, val, test: images of different subjects.
        encoder, recipe, structures, config, device: as for ``train_segmentation``; the seed is replaced.
        numbers: of training images; those that are too large are left out.
        seeds: one run for each.
        progress: told of each run.
        inputs: activations of the three sets that were computed before, see ``keep_inputs``; nothing is augmented then.

    Raises:
        ConfigError: a number is below 1.
        LlavaRadError: as ``train_segmentation``.
    """
    if any(number < 1 for number in numbers):
        raise ConfigError("the few-shot curve begins at one training image")
    place, kept = place_of(encoder, device), inputs
    if kept is None and config.augmentation is None:
        images_of = [one.images for one in (train, val, test)]
        kept = keep_inputs(images_of, encoder, recipe, head_layers(config), place, gib=config.cache_gib)
    points = []
    for images in sorted({number for number in numbers if number < len(train)} | {len(train)}):
        for seed in seeds:
            chosen = np.random.default_rng((seed, len(train))).permutation(len(train))[:images]
            part = None if kept is None else (kept[0].subset(chosen), kept[1])
            segmenter = train_segmentation(
                train.subset(chosen), val, encoder, recipe, structures, replace(config, seed=seed), inputs=part,
                device=place,
            )  # fmt: skip
            result = evaluate(segmenter, encoder, test, device=place, inputs=None if kept is None else kept[2])
            points.append(FewShotPoint.of(images, seed, result))
            progress(points[-1])
    return points
