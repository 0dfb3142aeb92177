"""Segmentation data: prepared images with masks, and their split by subject."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from encoder.datasets.manifest import Row
from encoder.datasets.masks import prepare_mask, read_mask
from encoder.datasets.splits import SEGMENTATION as SHARES
from encoder.datasets.splits import disjoint, split_by_subject
from encoder.errors import LlavaRadError
from encoder.preprocessing import Recipe
from encoder.probing.vectors import Unreadable
from encoder.reader.information import finding
from encoder.reader.sandbox import Reader

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SegmentationSet:
    """N prepared images with masks of K structures. A mask takes an eighth of a byte per pixel.

    Attributes:
        structures: K names.
        images: [N, S, S] uint8, as a recipe leaves them.
        packed: [N, K, bytes] uint8, ``numpy.packbits`` of each mask.
        known: [N, K], False where no mask is available for training or evaluation.
        attributes: N mappings, of the patients (``Row.attributes``).
        recipe: of the images; None if it is not known.
    """

    structures: tuple[str, ...]
    images: npt.NDArray[np.uint8]
    packed: npt.NDArray[np.uint8]
    known: Bools
    attributes: tuple[Mapping[str, str], ...]
    recipe: Recipe | None = None

    @classmethod
    def of(
        cls,
        images: npt.NDArray[np.uint8],
        masks: Bools,
        structures: Sequence[str],
        *,
        known: Bools | None = None,
        attributes: Sequence[Mapping[str, str]] | None = None,
    ) -> SegmentationSet:
        """Pack images [N, S, S] and masks [N, K, S, S].

        Raises:
            LlavaRadError: if the shapes do not fit together.
        """
        number, kinds = len(images), len(structures)
        known = np.ones((number, kinds), np.bool_) if known is None else known
        people = tuple({} for _ in range(number)) if attributes is None else tuple(attributes)
        square = images.ndim == 3 and images.shape[1] == images.shape[2]
        if not square or masks.shape != (number, kinds, *images.shape[1:]):
            raise LlavaRadError(f"masks of shape {masks.shape} do not fit images of shape {images.shape}")
        if known.shape != (number, kinds) or len(people) != number:
            raise LlavaRadError("one entry per image is required")
        packed = np.packbits(masks.reshape(number, kinds, -1), axis=-1)
        return cls(tuple(structures), images, packed, known, people)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        """S, in pixels."""
        return int(self.images.shape[1])

    def masks(self, numbers: Sequence[int] | npt.NDArray[np.intp]) -> Bools:
        """Unpack the masks [B, K, S, S] of the images with these numbers."""
        return self.unpack(self.packed[numbers])

    def unpack(self, packed: npt.NDArray[np.uint8]) -> Bools:
        """Unpack masks [B, K, bytes] of this set's size to [B, K, S, S]."""
        bits = np.unpackbits(packed, axis=-1, count=self.size**2)
        return bits.reshape(*bits.shape[:2], self.size, self.size).view(np.bool_)

    def subset(self, numbers: Sequence[int] | npt.NDArray[np.intp]) -> SegmentationSet:
        """Select the images with these numbers, in this order."""
        people = tuple(self.attributes[number] for number in numbers)
        return replace(
            self, images=self.images[numbers], packed=self.packed[numbers], known=self.known[numbers], attributes=people
        )

    def select(self, structures: Sequence[str]) -> SegmentationSet:
        """Select some of the structures, in this order.

        Raises:
            LlavaRadError: if one is missing or repeated.
        """
        if tuple(structures) == self.structures:
            return self
        for name in structures:
            if name not in self.structures:
                raise LlavaRadError(
                    f"there are no masks of {name!r}", hint=f"there are masks of {', '.join(self.structures)}"
                )
        if len(set(structures)) < len(structures) or not structures:
            raise LlavaRadError("name at least one structure, and each once")
        indices = [self.structures.index(name) for name in structures]
        return replace(self, structures=tuple(structures), packed=self.packed[:, indices], known=self.known[:, indices])

    def check_recipe(self, recipe: Recipe) -> None:
        """Check that the images were prepared by a recipe, if theirs is known.

        Raises:
            LlavaRadError: if they were prepared by another one.
        """
        if self.recipe not in (None, recipe):
            raise LlavaRadError(
                f"the images are prepared by another recipe than {recipe.name!r}", hint="read them with that recipe"
            )

    def empty(self) -> list[str]:
        """Names of the structures that no image has a pixel of."""
        return [name for number, name in enumerate(self.structures) if not self.packed[:, number].any()]

    def fingerprint(self) -> str:
        """Hash images and masks (SHA-256), to compare those of a resumed run."""
        digest = hashlib.sha256("\0".join(self.structures).encode())
        for array in (self.images, self.packed, self.known):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def read_segmentation_set(
    rows: Sequence[Row],
    recipe: Recipe,
    structures: Sequence[str],
    *,
    missing: Literal["unknown", "empty"] = "unknown",
    progress: Callable[[int], None] = lambda number: None,
    unreadable: Unreadable | None = None,
) -> SegmentationSet:
    """Read images and masks.

    Args:
        rows: N, with ``masks``.
        recipe: preprocessing of images and masks.
        structures: K names.
        missing: meaning of a row without a mask of a structure: unknown, or (CANDID-PTX, where most images have neither
            pneumothorax nor tube) that the structure is absent.
        progress: called with the number of images read.
        unreadable: collects images that are left out because they or their masks cannot be read; None raises for the
            first.

    Raises:
        LlavaRadError: if no row has a mask of a structure, or a file, or too many, cannot be read; the message names
            the row.
    """
    for name in structures:
        if not any(name in row.masks for row in rows):
            names = sorted({structure for row in rows for structure in row.masks})
            raise LlavaRadError(
                f"no image has a mask of {name!r}", hint=f"there are masks of {', '.join(names) or '-'}"
            )
    images = np.zeros((len(rows), recipe.size, recipe.size), np.uint8)
    packed = np.zeros((len(rows), len(structures), -(-(recipe.size**2) // 8)), np.uint8)
    known = np.full((len(rows), len(structures)), missing == "empty")
    read = np.ones(len(rows), np.bool_)
    with Reader() as reader:
        for index, row in enumerate(rows):
            try:
                image = reader.read(row.path, force=True, **row.reading)  # not resized: masks have its size
                if unreadable is not None and (found := finding(image.warnings)):
                    unreadable.doubtful[row.path] = row.number, found
                from_dicom = image.facts.format == "dicom"
                images[index] = recipe.apply(image.pixels, image.valid, from_dicom=from_dicom)
                wanted = [(number, row.masks[name]) for number, name in enumerate(structures) if name in row.masks]
                height, width = image.pixels.shape
                file = None if row.aspect is None else (image.facts.rows, image.facts.columns)
                for number, path in wanted:
                    mask = prepare_mask(read_mask(path, (height, width), file=file, reader=reader), recipe)
                    packed[index, number], known[index, number] = np.packbits(mask), True
            except LlavaRadError as error:
                if unreadable is None:
                    raise LlavaRadError(f"row {row.number} of the manifest: {error}", hint=error.hint) from None
                unreadable.add(row, error)
                read[index] = False
            progress(1)
    whole = SegmentationSet(tuple(structures), images, packed, known, tuple(row.attributes for row in rows), recipe)
    return whole if read.all() else whole.subset(np.flatnonzero(read))


def by_split(rows: Sequence[Row], *, seed: int = 0) -> tuple[list[Row], list[Row], list[Row]]:
    """Select training, validation and test images of a manifest.

    If a data set's own split has no validation images (VinDr-RibCXR: 196 train, 49 test), they are drawn from its
    training subjects with the paper's share elsewhere, 15 of 85.

    Args:
        rows: with splits; those without one are ignored.
        seed: of the drawn validation subjects.

    Raises:
        LlavaRadError: if a subject is in two splits, or a split has no images.
    """
    disjoint([row for row in rows if row.split])
    train, val, test = ([row for row in rows if row.split == name] for name in ("train", "val", "test"))
    if train and not val:
        share = SHARES[1] / (SHARES[0] + SHARES[1])
        parted = split_by_subject(train, (1 - share, share, 0.0), seed)
        train, val = ([row for row in parted if row.split == name] for name in ("train", "val"))
    for name, part in (("train", train), ("val", val), ("test", test)):
        if not part:
            raise LlavaRadError(
                f"the manifest has no images of the split {name}", hint="llava-rad manifest --split 70/15/15 makes them"
            )
    return train, val, test


def tensor(array: npt.NDArray[np.uint8] | Bools) -> torch.Tensor:
    """Copy an array, which may be a read-only memory map, to a tensor."""
    return torch.from_numpy(np.array(array))
