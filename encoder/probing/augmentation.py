"""Random changes of an image together with its masks, for training segmentation.

The paper (E.3.2) names the kinds: horizontal flip (not for left and right lungs and lung zones), affine transform,
elastic transform, brightness and contrast, gamma. It gives no strengths; those here are ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

_SIDED = re.compile(r"\b(left|right|zones?)\b|^[lr]\d+$")


@dataclass(frozen=True)
class SegmentationAugmentation:
    """How strongly training images are changed.

    Attributes:
        flip: chance of a horizontal flip; none where a structure has a side.
        affine: chance of an affine transform.
        degrees: largest rotation.
        shift: largest shift, as a share of the side.
        zoom: range of the scale.
        shear: largest shear in degrees.
        elastic: chance of an elastic transform.
        elastic_points: control points a side.
        elastic_sigma: standard deviation of their displacement, as a share of the side.
        jitter: chance of a change in brightness and contrast.
        brightness: largest relative change.
        contrast: largest relative change.
        gamma_chance: chance of a gamma adjustment.
        gamma: range of the exponent, even on a logarithmic scale.
    """

    flip: float = 0.5
    affine: float = 0.5
    degrees: float = 10.0
    shift: float = 0.05
    zoom: tuple[float, float] = (0.9, 1.1)
    shear: float = 5.0
    elastic: float = 0.5
    elastic_points: int = 7
    elastic_sigma: float = 0.015
    jitter: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    gamma_chance: float = 0.5
    gamma: tuple[float, float] = (0.7, 1.4)


def has_side(structure: str) -> bool:
    """Whether a structure's name says that a mirror image would be another one.

    ``left_lung``, ``Right lower zone``, ``lung zones`` and VinDr-RibCXR's ``L3`` do; ``lungs``, ``chest tubes`` do not.
    """
    return _SIDED.search(structure.lower().replace("_", " ")) is not None


def may_flip(structures: Iterable[str]) -> bool:
    """Whether images may be flipped when these structures are learnt."""
    return not any(has_side(structure) for structure in structures)


def augmented(
    images: torch.Tensor,
    masks: torch.Tensor,
    generators: Sequence[np.random.Generator],
    config: SegmentationAugmentation,
    *,
    flip: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change each image, and each of its masks in the same way.

    Args:
        images: [B, S, S] uint8.
        masks: [B, K, S, S] bool.
        generators: B, one for each image: its numbers depend on nothing else.
        config: how strongly.
        flip: whether flips are allowed, see ``may_flip``.

    Returns:
        Images and masks as they came. Pixels from beyond the border are black and outside of every structure; a mask is
        true where more than half of it arrives.
    """
    grey, inside = images.float() / 255, masks.float()
    for place, rng in enumerate(generators):
        flipped = rng.random() < config.flip and flip
        grid = _grid(images.shape[-1], rng, config)
        stack = torch.cat([grey[place][None], inside[place]])
        if flipped:
            stack = stack.flip(-1)
        if grid is not None:
            grid = grid.to(stack.device)
            stack = functional.grid_sample(
                stack[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False
            )[0]
        grey[place], inside[place] = _graded(stack[0], rng, config), stack[1:]
    return (grey * 255).round().to(torch.uint8), inside > 0.5


def _grid(side: int, rng: np.random.Generator, config: SegmentationAugmentation) -> torch.Tensor | None:
    """[1, S, S, 2]: where each pixel comes from, in -1..1 from edge to edge; None for a picture that stays."""
    moved, bent = rng.random() < config.affine, rng.random() < config.elastic
    angle, shear = np.radians(rng.uniform(-1, 1, 2) * (config.degrees, config.shear))
    shift, zoom = rng.uniform(-1, 1, 2) * config.shift * 2, rng.uniform(*config.zoom)
    points = rng.normal(0.0, config.elastic_sigma * 2, (1, 2, config.elastic_points, config.elastic_points))
    if not (moved or bent):
        return None
    theta = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    if moved:
        cosine, sine, slant = math.cos(angle), math.sin(angle), math.tan(shear)
        turn = np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[1.0, slant], [0.0, 1.0]]) / zoom
        theta = torch.from_numpy(np.column_stack([turn, shift])).float()
    grid = functional.affine_grid(theta[None], [1, 1, side, side], align_corners=False)
    if bent:
        field = torch.from_numpy(points).float()
        field = functional.interpolate(field, size=(side, side), mode="bicubic", align_corners=True)
        grid = grid + field.permute(0, 2, 3, 1)
    return grid


def _graded(image: torch.Tensor, rng: np.random.Generator, config: SegmentationAugmentation) -> torch.Tensor:
    """Brightness, contrast and gamma of grey values 0..1."""
    jittered, curved = rng.random() < config.jitter, rng.random() < config.gamma_chance
    brightness, contrast = 1 + rng.uniform(-1, 1, 2) * (config.brightness, config.contrast)
    exponent = math.exp(rng.uniform(math.log(config.gamma[0]), math.log(config.gamma[1])))
    if jittered:
        image = (image * float(brightness)).clamp(0, 1)
        mean = image.mean()
        image = ((image - mean) * float(contrast) + mean).clamp(0, 1)
    return image**exponent if curved else image
