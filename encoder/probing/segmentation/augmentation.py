"""Augmentation of segmentation images with their masks, also in worker processes.

The paper (E.3.2) names the kinds: horizontal flip (not for left and right lungs and lung zones), affine transform,
elastic transform, brightness and contrast, gamma. It gives no strengths; those here are ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from encoder.errors import LlavaRadError
from encoder.runs.workers import PREFETCH, begin_worker, next_item, worker_context

_SIDED = re.compile(r"\b(left|right|zones?)\b|^[lr]\d+$")
Bytes = npt.NDArray[np.uint8]


class Task(NamedTuple):
    """Images to augment.

    Attributes:
        images: [N, S, S].
        packed: [N, K, bytes], ``numpy.packbits`` of each mask.
        keys: N seeds, each a few numbers: run, epoch, image. Nothing else decides how an image is changed.
    """

    images: Bytes
    packed: Bytes
    keys: Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class SegmentationAugmentation:
    """Strengths of the augmentation.

    Attributes:
        flip: probability of a horizontal flip; 0 if a structure has a side.
        affine: probability of an affine transform.
        degrees: largest rotation.
        shift: largest shift, as a share of the side.
        zoom: range of the scale.
        shear: largest shear in degrees.
        elastic: probability of an elastic transform.
        elastic_points: control points per side.
        elastic_sigma: standard deviation of their displacement, as a share of the side.
        jitter: probability of a change in brightness and contrast.
        brightness: largest relative change.
        contrast: largest relative change.
        gamma_chance: probability of a gamma adjustment.
        gamma: range of the exponent, uniform on a logarithmic scale.
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
    """Tell whether a structure's name has a side, so that its mirror image is another structure.

    ``left_lung``, ``Right lower zone``, ``lung zones`` and VinDr-RibCXR's ``L3`` do; ``lungs``, ``chest tubes`` do not.
    """
    return _SIDED.search(structure.lower().replace("_", " ")) is not None


def may_flip(structures: Iterable[str]) -> bool:
    """Tell whether images with these structures may be flipped."""
    return not any(has_side(structure) for structure in structures)


def augmented(
    images: torch.Tensor,
    masks: torch.Tensor,
    generators: Sequence[np.random.Generator],
    config: SegmentationAugmentation,
    *,
    flip: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment each image, and each of its masks in the same way.

    Args:
        images: [B, S, S] uint8.
        masks: [B, K, S, S] bool.
        generators: B, one per image.
        config: strengths.
        flip: allow flips, see ``may_flip``.

    Returns:
        Images and masks of the same shapes and types. Pixels from beyond the border are black and outside of every
        structure; interpolated masks are thresholded at one half.
    """
    grey, inside = images.float() / 255, masks.float()
    for index, rng in enumerate(generators):
        flipped = rng.random() < config.flip and flip
        grid = _grid(images.shape[-1], rng, config)
        stack = torch.cat([grey[index][None], inside[index]])
        if flipped:
            stack = stack.flip(-1)
        if grid is not None:
            grid = grid.to(stack.device)
            stack = functional.grid_sample(
                stack[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False
            )[0]
        grey[index], inside[index] = _graded(stack[0], rng, config), stack[1:]
    return (grey * 255).round().to(torch.uint8), inside > 0.5


def _grid(side: int, rng: np.random.Generator, config: SegmentationAugmentation) -> torch.Tensor | None:
    """Draw the sampling grid [1, S, S, 2], in -1..1 from edge to edge; None for an unchanged image."""
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
    """Change brightness, contrast and gamma of grey values 0..1."""
    jittered, curved = rng.random() < config.jitter, rng.random() < config.gamma_chance
    brightness, contrast = 1 + rng.uniform(-1, 1, 2) * (config.brightness, config.contrast)
    exponent = math.exp(rng.uniform(math.log(config.gamma[0]), math.log(config.gamma[1])))
    if jittered:
        image = (image * float(brightness)).clamp(0, 1)
        mean = image.mean()
        image = ((image - mean) * float(contrast) + mean).clamp(0, 1)
    return image**exponent if curved else image


def augmented_stream(
    tasks: Iterator[Task], config: SegmentationAugmentation, *, flip: bool, workers: int = 0
) -> Generator[tuple[Bytes, Bytes]]:
    """Augment images in order; the result does not depend on the number of workers. Close the iterator to end them.

    Args:
        tasks: read a few ahead of the results. They carry the pixels, so that workers need no copy of the data set.
        config: strengths.
        flip: allow flips, see ``may_flip``.
        workers: processes; 0 augments in this one.

    Yields:
        Images and packed masks of each task.

    Raises:
        LlavaRadError: if a worker process ended.
    """
    change = _Change(config, flip)
    if not workers:
        yield from map(change.__getitem__, tasks)
        return
    loader = DataLoader(
        change,
        batch_size=None,
        sampler=tasks,
        num_workers=workers,
        prefetch_factor=PREFETCH,
        multiprocessing_context=worker_context(__name__),
        worker_init_fn=begin_worker,
        collate_fn=_as_it_is,  # arrays come through a pipe: shared memory may be small
        generator=torch.Generator(),  # its own, or starting it would advance torch's global one
    )
    stream = iter(loader)
    loss = LlavaRadError("a process that augments images ended unexpectedly", hint="use fewer --workers, or 0")
    try:
        while True:
            try:
                found = next_item(stream, loss)
            except StopIteration:
                return
            yield found
    finally:
        del stream  # ends the workers now


class _Change(Dataset[tuple[Bytes, Bytes]]):
    def __init__(self, config: SegmentationAugmentation, flip: bool) -> None:
        self._config, self._flip = config, flip

    def __getitem__(self, task: Task) -> tuple[Bytes, Bytes]:
        side = task.images.shape[-1]
        masks = np.unpackbits(task.packed, axis=-1, count=side * side).reshape(*task.packed.shape[:2], side, side)
        generators = [np.random.default_rng(key) for key in task.keys]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in workers: sums over pixels depend on how threads divide them
        try:
            images, moved = augmented(
                torch.from_numpy(np.array(task.images)), torch.from_numpy(masks).bool(), generators, self._config,
                flip=self._flip,
            )  # fmt: skip
        finally:
            torch.set_num_threads(threads)
        return images.numpy(), np.packbits(moved.numpy().reshape(*task.packed.shape[:2], -1), axis=-1)


def _as_it_is(item: Any) -> Any:
    return item
