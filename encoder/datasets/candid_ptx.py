"""CANDID-PTX (New Zealand): 19,237 DICOM files of 1024 pixels, pneumothoraces and chest tubes as run lengths, reports.

``Pneumothorax_reports.csv``: ``SOPInstanceUID`` (the file's name in ``dataset/``), ``StudyInstanceUID``, ``filename``
(``P00012_...``: the patient), ``EncodedPixels`` (-1 or blank for none; an image has a row for each pneumothorax),
``Report``. ``chest_tube.csv`` and ``acute_rib_fracture.csv`` (or ``Rib_fracture_mask_rle.csv``): ``anon_SOPUID``,
``mask_rle``; images not listed there have none.
Run lengths: :func:`encoder.datasets.mask_decoding.from_runs`. Images listed under two patients are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.datasets.manifest import Row
from encoder.datasets.mask_decoding import from_runs
from encoder.datasets.masks import MaskFiles, naming
from encoder.datasets.tables import find, read_csv

if TYPE_CHECKING:
    from encoder.datasets.mask_decoding import Mask

OF = "CANDID-PTX"
_NONE = ("", "-1")
_FOLDERS = ("dataset", "dataset1/dataset", "chest_radiographs")


@dataclass
class _Image:
    number: int
    subject: str
    study: str
    report: str
    runs: list[str] = field(default_factory=list)
    patients: set[str] = field(default_factory=set)


def read(root: Path, masks: MaskFiles, seed: int) -> Iterator[Row]:
    """Yield one row for each image of the reports' table, in its order; the attribute ``report`` is its text."""
    images = _images(find(root, "Pneumothorax_reports.csv", of=OF))
    tubes = _runs(find(root, "chest_tube.csv", of=OF))
    fractures = _runs(find(root, "acute_rib_fracture.csv", "Rib_fracture_mask_rle.csv", of=OF))
    folder = next((root / name for name in _FOLDERS if (root / name).is_dir()), root / _FOLDERS[0])
    for name, image in images.items():
        if len(image.patients) > 1:
            continue
        present = [runs for runs in image.runs if runs not in _NONE]
        drawn = {"pneumothorax": present, "chest tube": tubes.get(name, [])}
        with naming(OF, image.number):
            files = masks.draw(
                folder / name, name, {structure: partial(_union, runs) for structure, runs in drawn.items() if runs}
            )
        yield Row(
            folder / name,
            dataset="candid-ptx",
            subject=image.subject,
            study=image.study,
            image=name,
            view="frontal",
            labels={
                "Pneumothorax": float(bool(present)),
                "Chest tube": float(name in tubes),
                "Rib fracture": float(name in fractures),
            },
            number=image.number,
            masks=files,
            attributes={"report": image.report} if image.report else {},
        )


def _images(table: Path) -> dict[str, _Image]:
    images: dict[str, _Image] = {}
    columns = ("SOPInstanceUID", "StudyInstanceUID", "filename", "EncodedPixels", "Report")
    for number, row in enumerate(read_csv(table, *columns, of=OF), 1):
        subject = row["filename"].split("_")[0]
        image = images.setdefault(
            row["SOPInstanceUID"], _Image(number, subject, row["StudyInstanceUID"], row["Report"].strip())
        )
        image.runs.append(row["EncodedPixels"].strip())
        image.patients.add(subject)
    return images


def _runs(table: Path) -> dict[str, list[str]]:
    runs: dict[str, list[str]] = {}
    for row in read_csv(table, "anon_SOPUID", "mask_rle", of=OF):
        if row["mask_rle"].strip() not in _NONE:
            runs.setdefault(row["anon_SOPUID"], []).append(row["mask_rle"].strip())
    return runs


def _union(runs: list[str], size: tuple[int, int]) -> Mask:
    mask = from_runs(runs[0], size)
    for more in runs[1:]:
        mask = mask | from_runs(more, size)
    return mask
