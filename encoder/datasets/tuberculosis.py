"""Shenzhen and Montgomery (U.S. National Library of Medicine): normal or tuberculosis, one image a patient, lung masks.

Original: ``CXR_png/CHNCXR_0001_0.png`` (``MCUCXR_...``; the last digit is the label), ``ClinicalReadings/*.txt`` (sex,
age), masks ``mask/*_mask.png`` (Shenzhen, Stirenko et al. 2018) and ``ManualMask/leftMask``, ``rightMask``
(Montgomery); also below ``ChinaSet_AllFiles`` and ``MontgomerySet``. Prepared: ``labels.csv`` of both sites with
``image``, ``patient_id``, ``source``, ``label``, ``split``, ``lung_mask``.

A file with both lungs is the mask ``lungs``; ``left lung`` and ``right lung`` (the patient's, by their position on the
image, whatever a folder is called) are drawn if a line separates them. The prepared images are squashed to squares:
``est_aspect_w_over_h`` becomes the attribute ``aspect``, by which readers stretch images and masks again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.datasets.manifest import Row
from encoder.datasets.mask_decoding import sides
from encoder.datasets.masks import MaskFiles, naming
from encoder.datasets.tables import read_csv
from encoder.datasets.values import attributes_of, checked, split_of
from encoder.errors import LlavaRadError

if TYPE_CHECKING:
    from encoder.datasets.mask_decoding import Mask

_FOLDERS = {"shenzhen": "ChinaSet_AllFiles", "montgomery": "MontgomerySet"}
_SEX = re.compile(r"\b(female|male|f|m)\b", re.IGNORECASE)
_AGE = re.compile(r"\b(\d{1,3})\s*(?:y|yr|yrs|years?)\b", re.IGNORECASE)


def read_shenzhen(root: Path, masks: MaskFiles, seed: int) -> Iterator[Row]:
    """Yield the 662 images of Shenzhen No. 3 People's Hospital."""
    return _read(root, masks, "shenzhen")


def read_montgomery(root: Path, masks: MaskFiles, seed: int) -> Iterator[Row]:
    """Yield the 138 images of Montgomery County."""
    return _read(root, masks, "montgomery")


def both_sides(masks: MaskFiles, path: Path, image: str, files: Sequence[Path]) -> dict[str, Path]:
    """Draw the left and the right lung from one file of both or one file of each."""

    def half(side: int, size: tuple[int, int]) -> Mask | None:
        read = [masks.read(file, size) for file in files]
        parted = sides(read[0] | read[-1])
        return None if parted is None else parted[side]

    return masks.draw(path, image, {"left lung": partial(half, 0), "right lung": partial(half, 1)})


def _read(root: Path, masks: MaskFiles, site: str) -> Iterator[Row]:
    rows = _prepared(root, site) if (root / "labels.csv").is_file() else _original(root, site)
    for row, files in rows:
        with naming(site.capitalize(), row.number):
            drawn = both_sides(masks, row.path, row.image, files) if files else {}
        if len(files) == 1:
            drawn["lungs"] = files[0]
        yield Row(
            row.path, site, row.subject, "", row.image, "PA", row.split, row.labels, row.number, drawn, row.attributes
        )


def _prepared(root: Path, site: str) -> Iterator[tuple[Row, list[Path]]]:
    columns = ("image", "patient_id", "source", "label", "split", "lung_mask")
    for number, row in enumerate(read_csv(root / "labels.csv", *columns, of=site.capitalize()), 1):
        if row["source"] == site:
            path = root / row["image"]
            label = checked(
                row["label"], ("normal", "tuberculosis"), f"{site.capitalize()}: row {number}, column 'label'"
            )
            yield (
                Row(
                    path, site, row["patient_id"], "", path.stem, "PA", split_of(row["split"]),
                    _labels(label == "tuberculosis"), number,
                    attributes=attributes_of(aspect=row.get("est_aspect_w_over_h", "")),
                ),
                [root / row["lung_mask"]] if row["lung_mask"] else [],
            )  # fmt: skip


def _original(root: Path, site: str) -> Iterator[tuple[Row, list[Path]]]:
    top = next((f for f in (root, root / _FOLDERS[site]) if (f / "CXR_png").is_dir()), None)
    if top is None:
        raise LlavaRadError(f"{site.capitalize()}: there is neither labels.csv nor CXR_png in the folder")
    for number, path in enumerate(sorted((top / "CXR_png").glob("*.png")), 1):
        if path.stem[-2:] not in ("_0", "_1"):
            raise LlavaRadError(f"{site.capitalize()}: the name of image {number} does not end in its label, _0 or _1")
        masks = [top / "mask" / f"{path.stem}_mask.png"]
        if site == "montgomery":
            masks = [top / "ManualMask" / side / path.name for side in ("leftMask", "rightMask")]
        row = Row(
            path, site, path.stem[:-2], "", path.stem, "PA", "", _labels(path.stem.endswith("_1")), number,
            attributes=_reading(top / "ClinicalReadings" / f"{path.stem}.txt"),
        )  # fmt: skip
        yield row, masks if all(mask.is_file() for mask in masks) else []


def _labels(tuberculosis: bool) -> dict[str, float | None]:
    return {"Normal": float(not tuberculosis), "Tuberculosis": float(tuberculosis)}


def _reading(file: Path) -> dict[str, str]:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    sex, age = _SEX.search(text), _AGE.search(text)
    return attributes_of(sex[1] if sex else "", age[1] if age else "")
