"""VinDr-CXR 1.0.0 (PhysioNet): 15,000 training and 3,000 test images, DICOM, posteroanterior, 28 labels.

``train/IMAGE.dicom``, ``test/IMAGE.dicom``; ``annotations/image_labels_train.csv`` (``image_id``, ``rad_id``, a column
for each label) has one row for each of the three radiologists who read an image, ``image_labels_test.csv`` one row
with the consensus of five, where the column ``Other diseases`` is called ``Other disease``. Patients are unknown: as in
the paper, each image counts as a subject. Files converted to PNG or JPEG are found too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from encoder.datasets.manifest import Row
from encoder.datasets.tables import find, read_csv
from encoder.errors import LlavaRadError

LABELS = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation", "Edema",
    "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst", "Mediastinal shift",
    "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture",
    "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding",
)  # fmt: skip
_VALUES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
_SUFFIXES = (".dicom", ".dcm", ".png", ".jpg")


def read(root: Path) -> Iterator[Row]:
    """Yield the images of both parts. A training image has a label if more than half of its readers gave it."""
    number = 0
    for split in ("train", "test"):
        votes = _votes(find(root, f"annotations/image_labels_{split}.csv", of="VinDr-CXR"))
        for image, (readers, found) in votes.items():
            number += 1
            files = [root / split / f"{image}{suffix}" for suffix in _SUFFIXES]
            yield Row(
                next((file for file in files if file.is_file()), files[0]),
                dataset="vindr-cxr",
                subject=image,
                study=image,
                image=image,
                view="PA",
                split=split,
                labels={label: float(2 * count > readers) for label, count in zip(LABELS, found, strict=True)},
                number=number,
            )


def _votes(table: Path) -> dict[str, tuple[int, list[int]]]:
    """Map images to the number of their readers, and the number of these that gave each label."""
    votes: dict[str, tuple[int, list[int]]] = {}
    for number, row in enumerate(read_csv(table, "image_id", *LABELS[:-2], LABELS[-1], of="VinDr-CXR"), 1):
        cells = [row.get(label, row.get(label.removesuffix("s"), "")).strip() for label in LABELS]
        if not set(cells) <= _VALUES.keys():
            raise LlavaRadError(f"VinDr-CXR: row {number} of its table has a label that is neither 0 nor 1")
        readers, found = votes.get(row["image_id"], (0, [0] * len(LABELS)))
        votes[row["image_id"]] = readers + 1, [a + _VALUES[b] for a, b in zip(found, cells, strict=True)]
    return votes
