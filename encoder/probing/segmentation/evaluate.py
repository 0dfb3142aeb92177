"""Dice of a segmentation head on test images: by structure, over structures, by group of patients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from encoder.backbones.base import FrozenEncoder
from encoder.probing.dice import DiceScore, GroupScores, dice
from encoder.probing.segmentation.data import SegmentationSet
from encoder.probing.segmentation.inputs import Inputs
from encoder.probing.segmentation.model import Segmenter, check_encoder, masks_of

CHUNK = 64
"""Images whose masks are unpacked at a time."""


@dataclass(frozen=True)
class SegmentationResult:
    """How well structures were found.

    Attributes:
        structures: name -> Dice over the images whose truth has the structure.
        together: Dice over images of each image's mean over its structures ("lungs" and "lung zones" in the paper are
            such means over left and right, and over six zones).
        groups: attribute of the patient -> scores by group, of that mean.
        empty: name -> images that are known not to have the structure.
        false_alarms: name -> how many of those a mask was drawn in.
        head: name of the head.
        parameters: trainable ones.
        epoch: that was chosen.
        values: [N, K] Dice of each image; NaN where its truth is unknown or empty.
    """

    structures: dict[str, DiceScore]
    together: DiceScore
    groups: dict[str, GroupScores]
    empty: dict[str, int]
    false_alarms: dict[str, int]
    head: str
    parameters: int
    epoch: int
    values: npt.NDArray[np.float64] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the single images."""
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
    batch_size: int = 16,
    device: torch.device | str | None = None,
    inputs: Inputs | None = None,
) -> SegmentationResult:
    """Judge a head on images of subjects that it was not trained on.

    Args:
        segmenter: which head.
        encoder: the one that it was trained on; None for a head without encoder.
        data: N images with masks of the segmenter's structures.
        attributes: of the patients, to group by: ``ethnicity``, ``sex``. Patients without it are in no group.
        batch_size: images at a time.
        device: as for ``predict``.
        inputs: activations of these images, where they are kept.

    Raises:
        LlavaRadError: as ``predict``, or masks of a structure are missing.
    """
    check_encoder(segmenter, encoder)
    data = data.select(segmenter.structures)
    shape = (len(data), len(data.structures))
    values, inside, drawn = np.full(shape, np.nan), np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    for start in range(0, len(data), CHUNK):
        numbers = np.arange(start, min(start + CHUNK, len(data)))
        part = None if inputs is None else inputs.subset(numbers)
        found = masks_of(segmenter, encoder, data.images[numbers], batch_size=batch_size, device=device, inputs=part)
        truth = data.masks(numbers)
        values[numbers], inside[numbers], drawn[numbers] = dice(found, truth), truth.any((2, 3)), found.any((2, 3))
    values[~(data.known & inside)] = np.nan
    absent = data.known & ~inside
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an image without any structure
        means = np.nanmean(values, axis=1)
    return SegmentationResult(
        structures={name: DiceScore.of(values[:, place]) for place, name in enumerate(data.structures)},
        together=DiceScore.of(means),
        groups={
            name: GroupScores.of(means, [person.get(name, "") for person in data.attributes]) for name in attributes
        },
        empty={name: int(absent[:, place].sum()) for place, name in enumerate(data.structures)},
        false_alarms={name: int((absent & drawn)[:, place].sum()) for place, name in enumerate(data.structures)},
        head=segmenter.config.head,
        parameters=segmenter.parameters,
        epoch=segmenter.epoch,
        values=values,
    )
