"""NIH ChestX-ray14: 112,120 frontal PNG files of 1024 pixels, 14 labels mined from reports.

``Data_Entry_2017_v2020.csv`` (or ``Data_Entry_2017.csv``): ``Image Index``, ``Finding Labels`` (joined by ``|``),
``Patient ID``, ``View Position``, perhaps ``Patient Age`` and ``Patient Gender``. The archives unpack to ``images/`` or
to ``images_001/images/`` ...; the official patient-wise split is in ``train_val_list.txt`` and ``test_list.txt``.

A prepared sample: images of 518 pixels and ``labels.csv`` with ``image``, ``nih_image_index``, ``patient_id``, ``age``,
``sex``, ``view``, ``split`` and the 15 labels; a column ``sampling`` becomes an attribute: only images with "random"
show how frequent a finding is. Both are called chestxray14 in manifests: subjects and images are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from encoder.datasets.manifest import Row
from encoder.datasets.tables import find, read_csv
from encoder.datasets.values import attributes_of, checked, known, labels_of, split_of
from encoder.errors import LlavaRadError
from encoder.reader.views import view_of

LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax", "No Finding",
)  # fmt: skip


def read(root: Path) -> Iterator[Row]:
    """Yield the table's rows; without the two lists they have no splits."""
    of = "ChestX-ray14"
    table = find(root, "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", of=of)
    places = {path.name: path for path in sorted((*root.glob("images/*"), *root.glob("images_*/images/*")))}
    train, test = _names(root / "train_val_list.txt"), _names(root / "test_list.txt")
    rows = read_csv(table, "Image Index", "Finding Labels", "Patient ID", "View Position", of=of)
    for number, row in enumerate(rows, 1):
        name, where = row["Image Index"], f"{of}: row {number}, column 'Finding Labels'"
        found = {checked(one, LABELS, where) for one in known(row["Finding Labels"]).split("|") if one}
        yield Row(
            places.get(name, root / "images" / name),
            dataset="chestxray14",
            subject=row["Patient ID"],
            image=name,
            view=view_of(row["View Position"]),
            split="train" if name in train else "test" if name in test else "",
            labels={label: float(label in found) if found else None for label in LABELS},
            number=number,
            attributes=attributes_of(row.get("Patient Gender", ""), row.get("Patient Age", "")),
        )


def read_sample(root: Path) -> Iterator[Row]:
    """Yield the rows of the prepared sample with its splits, which are by patient."""
    of = "the sample of ChestX-ray14"
    columns = ("image", "nih_image_index", "patient_id", "age", "sex", "view", "split", *LABELS)
    for number, row in enumerate(read_csv(find(root, "labels.csv", of=of), *columns, of=of), 1):
        yield Row(
            root / row["image"],
            dataset="chestxray14",
            subject=row["patient_id"],
            image=row["nih_image_index"],
            view=view_of(row["view"]),
            split=split_of(row["split"]),
            labels=labels_of(row, LABELS, f"{of}: row {number}"),
            number=number,
            attributes=attributes_of(row["sex"], row["age"], sampling=row.get("sampling", "")),
        )


def _names(file: Path) -> set[str]:
    try:
        return set(file.read_text(encoding="utf-8").split())
    except FileNotFoundError:
        return set()
    except (OSError, UnicodeDecodeError):
        raise LlavaRadError("ChestX-ray14: train_val_list.txt or test_list.txt cannot be read") from None
