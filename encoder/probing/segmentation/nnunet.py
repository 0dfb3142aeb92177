"""nnU-Net as an external row of table 3: a data set in the layout of its version 2, and its predictions.

nnU-Net (Isensee et al. 2021) trains by its own rules and elsewhere; what is equal is the prepared images, masks and
splits, and the scores. Formats: documentation/reference/dataset-format.md, region_based_training.md and
manual_data_splits.md of MIC-DKFZ/nnUNet. ``nnUNetv2_predict`` copies ``dataset.json`` beside its predictions, so that
the entry ``llava_rad`` there tells which images and masks a model was trained on.

A case is named by the SHA-256 of its prepared pixels: predictions of other images or of another recipe do not fit.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.errors import LlavaRadError
from encoder.files import check_writable, reported, write, writing_folder
from encoder.json_files import read_json
from encoder.probing.segmentation.data import Bools, SegmentationSet
from encoder.reader.sandbox import Reader

_NAME = re.compile(r"Dataset\d{3}_[\w-]+")
_RESERVED = {"background", "ignore"}
_KEY, _ENDING = "llava_rad", ".png"


@dataclass(frozen=True)
class Cases:
    """The cases of one split.

    Attributes:
        data: images with at least one known mask.
        names: of the cases.
        left_out: number of images without one.
    """

    data: SegmentationSet
    names: tuple[str, ...]
    left_out: int

    @classmethod
    def of(cls, data: SegmentationSet) -> Cases:
        """Name the images of a set; equal ones are counted."""
        known = np.flatnonzero(data.known.any(axis=1))
        seen: Counter[str] = Counter()
        names = []
        for image in data.images[known]:
            name = hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:20]
            seen[name] += 1
            names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
        return cls(data.subset(known), tuple(names), len(data) - len(known))

    def fingerprint(self) -> str:
        """Hash names, structures and masks (SHA-256)."""
        digest = hashlib.sha256(json.dumps([self.names, self.data.structures]).encode())
        digest.update(np.ascontiguousarray(self.data.packed).data)
        return digest.hexdigest()


def check_folder(folder: Path) -> None:
    """Check that a data set can be written to a folder.

    Raises:
        LlavaRadError: if its name is not nnU-Net's, it is not empty, or it cannot be made.
    """
    if _NAME.fullmatch(folder.name) is None:
        raise LlavaRadError("nnU-Net's data sets are called DatasetNNN_NAME", hint="-o nnUNet_raw/Dataset501_Lungs")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LlavaRadError("the data set's folder is not empty", hint="name another, or remove it")
    check_writable(folder)


def write_dataset(train: SegmentationSet, val: SegmentationSet, test: SegmentationSet, folder: Path) -> dict[str, int]:
    """Write ``imagesTr``, ``labelsTr`` (training and validation images), ``imagesTs``, ``dataset.json``, and
    ``splits_final.json`` with the one fold that has our validation images.

    Args:
        train, val, test: images of different subjects, prepared alike.
        folder: new or empty, called as nnU-Net wants it: ``Dataset501_Lungs``.

    Returns:
        Number of images of each split, and of those that are left out since no mask of theirs is known.

    Raises:
        LlavaRadError: if the folder's name does not fit or it is not empty, a structure is known in some masks of an
            image only, structures overlap in a way that nnU-Net has no label for, or a file cannot be written.
    """
    check_folder(folder)
    if odd := _RESERVED & set(train.structures):
        raise LlavaRadError(f"nnU-Net has a label of its own that is called {odd.pop()!r}")
    parts = [Cases.of(part) for part in (train, val, test)]
    for part in parts[:2]:
        if not part.data.known.all():
            raise LlavaRadError(
                f"{int((~part.data.known.all(axis=1)).sum())} images have masks of some structures only, which nnU-Net "
                "cannot learn from",
                hint="write a data set for each: --structures NAME; or --absent, if no mask means no structure",
            )
    order, labels = _order([part.data for part in parts[:2]])
    parts = [replace(part, data=part.data.select(order)) for part in parts]
    with reported("the data set"), writing_folder(folder) as unfinished:
        for name, part in zip(("Tr", "Tr", "Ts"), parts, strict=True):
            for number, case in enumerate(part.names):
                _write_png(part.data.images[number], unfinished / f"images{name}" / f"{case}_0000{_ENDING}")
                if name == "Tr":
                    label = _label_map(part.data.masks([number])[0])
                    _write_png(label, unfinished / "labelsTr" / f"{case}{_ENDING}")
        fold = {"train": list(parts[0].names), "val": list(parts[1].names)}
        write(unfinished / "splits_final.json", json.dumps([fold], indent=1))
        regions = any(isinstance(value, list) for value in labels.values())
        facts: dict[str, Any] = {
            "channel_names": {"0": "X-ray"},  # any name but "CT" and "noNorm" is normalised by mean and deviation
            "labels": {"background": 0} | labels,
            **({"regions_class_order": list(range(1, len(order) + 1))} if regions else {}),
            "numTraining": len(parts[0].names) + len(parts[1].names),
            "file_ending": _ENDING,
            _KEY: _key(parts[0], parts[1]),
        }
        write(unfinished / "dataset.json", json.dumps(facts, indent=1))
    sizes = {name: len(part.names) for name, part in zip(("train", "val", "test"), parts, strict=True)}
    return sizes | {"left out": sum(part.left_out for part in parts)}


def read_predictions(
    folder: Path, train: SegmentationSet, val: SegmentationSet, test: SegmentationSet
) -> tuple[tuple[str, ...], Bools]:
    """Read what ``nnUNetv2_predict`` wrote for ``imagesTs``.

    Args:
        folder: of the predictions.
        train, val, test: as for ``write_dataset``; they may have more structures.

    Returns:
        Names of the structures; masks [N, K, S, S] of the test images, empty for those that no mask is known of.

    Raises:
        LlavaRadError: if the model was trained on other images, masks or splits, a prediction is missing or of another
            image, or a file cannot be read.
    """
    try:
        facts = read_json(folder / "dataset.json")
        labels = {str(name): np.atleast_1d(np.array(value, int)) for name, value in facts["labels"].items()}
        key = facts[_KEY]
    except FileNotFoundError:
        raise LlavaRadError("nnU-Net's predictions have no dataset.json", hint="nnUNetv2_predict copies it") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise LlavaRadError("dataset.json of nnU-Net's predictions is not of 'llava-rad probe nnunet'") from None
    structures = tuple(name for name in labels if name != "background")
    fit, choose, judged = (Cases.of(part.select(structures)) for part in (train, val, test))
    if key != _key(fit, choose):
        raise LlavaRadError("nnU-Net was trained on other images, masks or splits than these")
    found = {path.stem for path in folder.glob(f"*{_ENDING}")}
    wanted = set(judged.names)
    for names, what in ((wanted - found, "are missing"), (found - wanted, "are of none of the test images")):
        if names:
            raise LlavaRadError(f"{len(names):,} of nnU-Net's {len(wanted | found):,} predictions {what}")
    masks = np.zeros((len(test), len(structures), test.size, test.size), np.bool_)
    positions = np.flatnonzero(test.select(structures).known.any(axis=1))
    allowed = np.unique(np.concatenate(list(labels.values())))
    with Reader() as reader:
        for position, name in zip(positions, judged.names, strict=True):
            label = reader.read(folder / f"{name}{_ENDING}", force=True).pixels
            if label.shape != test.images.shape[1:] or not np.isin(label, allowed).all():
                raise LlavaRadError(f"the prediction of case {name} has another size, or a label that is unknown")
            for number, structure in enumerate(structures):
                masks[position, number] = np.isin(label, labels[structure])
    return structures, masks


def _order(parts: list[SegmentationSet]) -> tuple[list[str], dict[str, int | list[int]]]:
    """Choose the order in which structures are written over one another, and the labels of each.

    A label map holds one number for each pixel: the last of the pixel's structures, the largest structure first. It
    tells all of them if each number stands for one combination: for structures side by side, or inside one another
    (nnU-Net's regions).

    Raises:
        LlavaRadError: if a number would stand for several combinations.
    """
    names = parts[0].structures
    powers = 1 << np.arange(len(names), dtype=np.int64)
    areas: Counter[int] = Counter()
    for part in parts:
        for number in range(len(part)):
            codes, counts = np.unique(np.tensordot(powers, part.masks([number])[0], 1), return_counts=True)
            areas.update(dict(zip(codes.tolist(), counts.tolist(), strict=True)))
    there = {code: [name for bit, name in enumerate(names) if code >> bit & 1] for code in areas if code}
    sizes = {name: sum(areas[code] for code, some in there.items() if name in some) for name in names}
    order = sorted(names, key=lambda name: -sizes[name])
    last = {code: max(some, key=order.index) for code, some in there.items()}
    ends = Counter(last.values())
    if odd := [name for name in names if ends[name] > 1 or (sizes[name] and not ends[name])]:
        raise LlavaRadError(
            f"{odd[0]!r} and other structures overlap in part, which nnU-Net has no label for",
            hint="write a data set for each: --structures NAME",
        )
    labels: dict[str, int | list[int]] = {}
    for name in order:
        values = sorted(order.index(last[code]) + 1 for code, some in there.items() if name in some)
        labels[name] = values if len(values) > 1 else order.index(name) + 1
    return order, labels


def _label_map(masks: Bools) -> npt.NDArray[np.uint8]:
    label = np.zeros(masks.shape[1:], np.uint8)
    for value, mask in enumerate(masks, 1):
        label[mask] = value
    return label


def _key(train: Cases, val: Cases) -> dict[str, str]:
    return {"train": train.fingerprint(), "val": val.fingerprint()}


def _write_png(pixels: npt.NDArray[np.uint8], file: Path) -> None:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="PNG")
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, data.getvalue())
