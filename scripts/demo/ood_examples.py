"""Count the model's warnings on images unlike its training data: children, laterals, drawings, noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from encoder.datasets.manifest import Row, read_manifest
from encoder.preprocessing import Recipe
from encoder.reader.views import FRONTAL
from scripts.demo.features import read_image

if TYPE_CHECKING:
    import torch

    from encoder.backbones.base import Vision
    from llava_rad.model.familiarity import Familiarity

Pixels = NDArray[np.uint8]
MOST = 200
"""Largest number of images of a kind."""
DRAWN = 50
"""Number of phantoms, and of noise images."""
KINDS = {"upside down": 200, "phantoms": 100}
"""Kinds of which the model gets examples, and their number; none of them is counted by ``images``."""


def images(manifests: Mapping[str, Path], recipe: Recipe) -> Iterator[tuple[str, list[Pixels]]]:
    """Yield kinds of images, prepared by the recipe.

    Args:
        manifests: of ``scripts.demo.pretraining.write_manifests``; missing sets are skipped.
        recipe: of the model.
    """
    rows = {name: read_manifest(file) for name, file in manifests.items()}

    def kind(name: str, chosen: Sequence[Row]) -> tuple[str, list[Pixels]]:
        step = max(1, len(chosen) // MOST)
        return name, [recipe.apply(read_image(row.path), from_dicom=False) for row in chosen[::step][:MOST]]

    yield kind("NIH val (adults, frontal)", [row for row in rows["nih"] if row.split == "val"])
    if "rsna" in rows:
        yield kind("RSNA normal (adults, 224 px files)", rows["rsna"])
    if "montgomery" in rows:
        yield kind("Montgomery (adults, another hospital)", rows["montgomery"])
    if "covid" in rows:
        yield kind("COVID set, frontal (figures of articles)", [row for row in rows["covid"] if row.view in FRONTAL])
        yield kind("COVID set, lateral", [row for row in rows["covid"] if row.view == "lateral"])
    if "kermany" in rows:
        yield kind("Kermany (children of 1 to 5 years)", [row for row in rows["kermany"] if row.split == "val"])
    yield "drawn phantoms", [recipe.apply(pixels, from_dicom=False) for pixels in _phantoms(DRAWN)]
    turned = [row for row in rows["nih"] if row.split == "val"]
    yield "NIH val upside down", [recipe.apply(read_image(row.path)[::-1], from_dicom=False) for row in turned]
    yield (
        "NIH val, inverted grey values",
        [recipe.apply(255 - read_image(row.path), from_dicom=False) for row in turned],
    )
    hand = _hand(recipe)
    yield "a hand (RG3 of pydicom-data)", [hand]
    rng = np.random.default_rng(0)
    yield "noise", [rng.integers(0, 256, (recipe.size, recipe.size), dtype=np.uint8) for _ in range(DRAWN)]


def unlike(paths: Sequence[Path], recipe: Recipe) -> Iterator[tuple[str, list[Pixels]]]:
    """Yield examples of ``KINDS``, prepared by the recipe.

    Args:
        paths: training images, which are turned upside down; every second one also left to right.
        recipe: of the model.
    """
    turned = [read_image(path)[::-1] for path in paths[: KINDS["upside down"]]]
    pixels = [one[:, ::-1] if number % 2 else one for number, one in enumerate(turned)]
    yield "upside down", [recipe.apply(np.ascontiguousarray(one), from_dicom=False) for one in pixels]
    drawn = _phantoms(KINDS["phantoms"], first=DRAWN)
    yield "phantoms", [recipe.apply(one, from_dicom=False) for one in drawn]


def describe(vision: Vision, recipe: Recipe, kinds: Iterator[tuple[str, list[Pixels]]]) -> dict[str, torch.Tensor]:
    """Compute the features of ``Familiarity`` of prepared images, by kind."""
    import torch

    from llava_rad.model.familiarity import Familiarity

    with torch.inference_mode():
        return {
            name: torch.cat(
                [Familiarity.describe(vision(recipe.normalise(batch)).patches) for batch in _sixteen(pixels)]
            )
            for name, pixels in kinds
        }


def warned(
    known: Familiarity, vision: Vision, recipe: Recipe, kinds: Iterator[tuple[str, list[Pixels]]]
) -> dict[str, dict[str, int]]:
    """Count images and warnings of each kind."""
    import torch

    found = {}
    with torch.inference_mode():
        for name, pixels in kinds:
            far = [
                one for batch in _sixteen(pixels) for one in known.unfamiliar(vision(recipe.normalise(batch)).patches)
            ]
            found[name] = {"images": len(pixels), "warned": sum(far)}
    return found


def _sixteen(pixels: Sequence[Pixels]) -> Iterator[Pixels]:
    for at in range(0, len(pixels), 16):
        yield np.stack(pixels[at : at + 16])


def _phantoms(number: int, first: int = 0) -> Iterator[Pixels]:
    from scripts.phantom import phantom_radiograph

    for seed in range(first, first + number):
        yield phantom_radiograph(seed, (), 320, view="PA").grey()


def _hand(recipe: Recipe) -> Pixels:
    from pydicom.data import get_testdata_file

    from encoder.reader.sandbox import Reader

    path = get_testdata_file("RG3_UNCR.dcm")
    with Reader() as reader:
        return reader.prepare(Path(str(path)), recipe, force=True).pixels
