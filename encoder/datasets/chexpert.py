"""CheXpert 1.0 (Stanford), full size or small: JPEG, 14 labels, train.csv and valid.csv.

Paths in the tables are like ``CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg``; the first part is the
archive's own folder, which here is the root. ``Frontal/Lateral`` gives the view, ``AP/PA`` the direction of frontal
ones (16 of them have LL there).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from encoder.datasets.manifest import Row
from encoder.datasets.tables import find, read_csv
from encoder.datasets.values import CHEXPERT, labels_of, split_of
from encoder.errors import LlavaRadError
from encoder.reader.views import View, view_of


def read(root: Path) -> Iterator[Row]:
    """Yield the rows of train.csv, then of valid.csv."""
    tables = [find(root, name, of="CheXpert") for name in ("train.csv", "valid.csv")]
    rows = (read_csv(table, "Path", "Frontal/Lateral", "AP/PA", of="CheXpert") for table in tables)
    for number, row in enumerate(itertools.chain.from_iterable(rows), 1):
        parts = Path(row["Path"]).parts[-4:]
        if len(parts) < 4:
            raise LlavaRadError(f"CheXpert: row {number} has no path of the form train/patient00001/study1/NAME.jpg")
        split, patient, study, _ = parts
        yield Row(
            root.joinpath(*parts),
            dataset="chexpert",
            subject=patient,
            study=f"{patient}/{study}",
            image="/".join(parts),
            view=_view(row["Frontal/Lateral"], row["AP/PA"]),
            split=split_of(split),
            labels=labels_of(row, CHEXPERT, f"CheXpert: row {number}"),
            number=number,
        )


def _view(plane: str, direction: str) -> View:
    if plane != "Frontal":
        return view_of(plane)
    view = view_of(direction)
    return view if view in ("PA", "AP") else "frontal"
