"""PadChest (BIMCV): 16-bit PNG files, Spanish reports, 193 labels.

``PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv``: ``ImageID``, ``ImageDir``, ``StudyID``, ``PatientID``,
``Projection`` (PA, L, AP, AP_horizontal, COSTAL, EXCLUDE, UNK), ``Labels`` (a list as Python writes it). The archives
0.zip ... 54.zip unpack to ``ImageDir/ImageID``; files that lie in the root itself are found too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from encoder.datasets.manifest import Row
from encoder.datasets.tables import find, rows_of, view_of

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
# The frequent ones of the radiologists' and the network's labels, with those of the paper's lateral probe (E.3.1).
LABELS = (
    "normal", "COPD signs", "cardiomegaly", "aortic elongation", "pleural effusion", "scoliosis", "pneumonia",
    "interstitial pattern", "infiltrates", "costophrenic angle blunting", "air trapping", "alveolar pattern",
    "laminar atelectasis", "vertebral degenerative changes", "nodule", "pacemaker",
)  # fmt: skip
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")


def read(root: Path) -> Iterator[Row]:
    """The table's rows; PadChest makes no splits."""
    return (row for row, _ in labelled(root))


def labelled(root: Path) -> Iterator[tuple[Row, set[str]]]:
    """The table's rows, each with all its labels; none where the report was not labelled."""
    table = find(root, TABLE, of="PadChest")
    columns = ("ImageID", "ImageDir", "StudyID", "PatientID", "Projection", "Labels")
    folders: dict[str, Path] = {}
    for number, row in enumerate(rows_of(table, *columns, of="PadChest"), 1):
        name, folder = row["ImageID"], row["ImageDir"]
        if folder not in folders:
            folders[folder] = root / folder if (root / folder).is_dir() else root
        found = {(one or other).strip() for one, other in _QUOTED.findall(row["Labels"])} - {""}
        image = Row(
            folders[folder] / name,
            dataset="padchest",
            subject=row["PatientID"] if row["PatientID"] != "nan" else "",
            study=row["StudyID"],
            image=name,
            view=view_of(row["Projection"]),
            labels={label: float(label in found) if found else None for label in LABELS},
            number=number,
        )
        yield image, found
