"""A prepared part of NIH ChestX-ray14: images of 518 pixels and ``labels.csv`` with a column for each label.

Columns ``image``, ``nih_image_index``, ``patient_id``, ``age``, ``sex``, ``view``, ``split``, the 15 labels; where it
is there, ``sampling`` becomes an attribute: only images with "random" tell how frequent a finding is. The data set is
called chestxray14, as the original (``llava-rad manifest chestxray14``): subjects and images are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from encoder.datasets.chestxray14 import LABELS
from encoder.datasets.manifest import Row
from encoder.datasets.tables import attributes_of, find, labels_of, rows_of, split_of, view_of


def read(root: Path) -> Iterator[Row]:
    """The table's rows with its splits, which are by patient."""
    of = "the sample of ChestX-ray14"
    columns = ("image", "nih_image_index", "patient_id", "age", "sex", "view", "split", *LABELS)
    for number, row in enumerate(rows_of(find(root, "labels.csv", of=of), *columns, of=of), 1):
        yield Row(
            root / row["image"],
            dataset="chestxray14",
            subject=row["patient_id"],
            image=row["nih_image_index"],
            view=view_of(row["view"]),
            split=split_of(row["split"]),
            labels=labels_of(row, LABELS),
            number=number,
            attributes=attributes_of(row["sex"], row["age"], sampling=row.get("sampling", "")),
        )
