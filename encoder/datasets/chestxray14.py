"""NIH ChestX-ray14: 112,120 frontal PNG files of 1024 pixels, 14 labels mined from reports.

``Data_Entry_2017_v2020.csv`` (or ``Data_Entry_2017.csv``): ``Image Index``, ``Finding Labels`` (joined by ``|``),
``Patient ID``, ``View Position``, perhaps ``Patient Age`` and ``Patient Gender``. The archives unpack to ``images/`` or
to ``images_001/images/`` ...; the official patient-wise split stands in ``train_val_list.txt`` and ``test_list.txt``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from encoder.datasets.manifest import Row
from encoder.datasets.tables import attributes_of, find, rows_of, view_of
from encoder.errors import LlavaRadError

LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax", "No Finding",
)  # fmt: skip


def read(root: Path) -> Iterator[Row]:
    """The table's rows; without the two lists there are no splits."""
    of = "ChestX-ray14"
    table = find(root, "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", of=of)
    places = {path.name: path for path in sorted((*root.glob("images/*"), *root.glob("images_*/images/*")))}
    train, test = _names(root / "train_val_list.txt"), _names(root / "test_list.txt")
    rows = rows_of(table, "Image Index", "Finding Labels", "Patient ID", "View Position", of=of)
    for number, row in enumerate(rows, 1):
        name, found = row["Image Index"], row["Finding Labels"].split("|")
        yield Row(
            places.get(name, root / "images" / name),
            dataset="chestxray14",
            subject=row["Patient ID"],
            image=name,
            view=view_of(row["View Position"]),
            split="train" if name in train else "test" if name in test else "",
            labels={label: float(label in found) for label in LABELS},
            number=number,
            attributes=attributes_of(row.get("Patient Gender", ""), row.get("Patient Age", "")),
        )


def _names(file: Path) -> set[str]:
    try:
        return set(file.read_text(encoding="utf-8").split())
    except FileNotFoundError:
        return set()
    except (OSError, UnicodeDecodeError):
        raise LlavaRadError("ChestX-ray14: train_val_list.txt or test_list.txt cannot be read") from None
