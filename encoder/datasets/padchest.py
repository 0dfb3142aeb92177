"""PadChest (BIMCV): 16-bit PNG files, Spanish reports, 193 labels.

``PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv``: ``ImageID``, ``ImageDir``, ``StudyID``, ``PatientID``,
``Projection`` (PA, L, AP, AP_horizontal, COSTAL, EXCLUDE, UNK), ``Labels`` (a list as Python writes it), and, if it is
there, ``PhotometricInterpretation_DICOM``: the values of a MONOCHROME1 file were copied to the PNG as they are, so that
they are inverted. The archives 0.zip ... 54.zip unpack to ``ImageDir/ImageID``; files in the root itself are found too.

The lateral subset (paper, C.3): three findings that lateral views show well, with as many negatives. Positives of a
finding are all lateral images with that label; its negatives are drawn from the lateral images with none of the three
findings, independently of the others, so that an image may serve several of them. The other labels are unknown: C.3
says that not all labels are present for each image. Images whose labels say nothing about absence ("unchanged",
"exclude", "suboptimal study", none at all) are not drawn, and all labels of an image with only these are unknown. The
split is 80/10/10 by subject.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from encoder.datasets.manifest import Row
from encoder.datasets.masks import MaskFiles
from encoder.datasets.splits import drawn
from encoder.datasets.tables import find, read_csv
from encoder.datasets.values import known
from encoder.reader.views import view_of

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
# The frequent ones of the radiologists' and the network's labels, with those of the paper's lateral probe (E.3.1).
LABELS = (
    "normal", "COPD signs", "cardiomegaly", "aortic elongation", "pleural effusion", "scoliosis", "pneumonia",
    "interstitial pattern", "infiltrates", "costophrenic angle blunting", "air trapping", "alveolar pattern",
    "laminar atelectasis", "vertebral degenerative changes", "nodule", "pacemaker",
)  # fmt: skip
FINDINGS = ("vertebral degenerative changes", "pleural effusion", "costophrenic angle blunting")
_SILENT = {"unchanged", "exclude", "suboptimal study"}
_POLARITY = "PhotometricInterpretation_DICOM"
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")


def read(root: Path) -> Iterator[Row]:
    """Yield the table's rows; PadChest makes no splits."""
    return (row for row, _ in labelled(root))


def labelled(root: Path) -> Iterator[tuple[Row, set[str]]]:
    """Yield the table's rows, each with all its labels; none if the report was not labelled."""
    table = find(root, TABLE, of="PadChest")
    columns = ("ImageID", "ImageDir", "StudyID", "PatientID", "Projection", "Labels")
    folders: dict[str, Path] = {}
    for number, row in enumerate(read_csv(table, *columns, of="PadChest"), 1):
        name, folder = row["ImageID"], row["ImageDir"]
        if folder not in folders:
            folders[folder] = root / folder if (root / folder).is_dir() else root
        found = {(one or other).strip() for one, other in _QUOTED.findall(row["Labels"])} - {""}
        image = Row(
            folders[folder] / name,
            dataset="padchest",
            subject=known(row["PatientID"]),
            study=row["StudyID"],
            image=name,
            view=view_of(row["Projection"]),
            labels={label: float(label in found) if found - _SILENT else None for label in LABELS},
            number=number,
            inverted=row.get(_POLARITY, "").strip().upper() == "MONOCHROME1",
        )
        yield image, found


def read_lateral(root: Path, masks: MaskFiles, seed: int) -> Iterator[Row]:
    """Yield the lateral subset in the table's order; its rows are called padchest: subjects are the same.

    The seed draws the negatives; if there are fewer than positives, all are taken.
    """
    lateral = [(row, found) for row, found in labelled(root) if row.view == "lateral" and found]
    pool = [row for row, found in lateral if not found & (_SILENT | set(FINDINGS))]
    labels: dict[int, dict[str, float | None]] = {}
    for finding in FINDINGS:
        positive = [row for row, found in lateral if finding in found]
        negative = sorted(pool, key=lambda row: drawn(str(seed), finding, row.image))[: len(positive)]
        for value, rows in ((1.0, positive), (0.0, negative)):
            for row in rows:
                labels.setdefault(row.number, dict.fromkeys(FINDINGS))[finding] = value
    for row, _ in lateral:
        if row.number in labels:
            yield replace(row, labels=labels[row.number])
