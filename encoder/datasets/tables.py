"""What the adapters share: reading a data set's own tables, and its words for views, splits and labels."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path

from encoder.errors import LlavaRadError
from encoder.manifest import View

_VIEWS: dict[str, View] = {
    "PA": "PA", "AP": "AP", "FRONTAL": "frontal", "LATERAL": "lateral", "L": "lateral", "LL": "lateral",
    "RL": "lateral", "LAT": "lateral", "AP_HORIZONTAL": "AP", "AP SUPINE": "AP", "AP ERECT": "AP", "AP AXIAL": "AP",
    # decubitus: a frontal beam, the patient lies on a side
    "AP LLD": "AP", "AP RLD": "AP", "PA LLD": "PA", "PA RLD": "PA", "LLD": "frontal", "RLD": "frontal",
    "POSTEROANTERIOR": "PA", "ANTEROPOSTERIOR": "AP",
}  # fmt: skip
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val", "test": "test"}
# The 14 observations of the CheXpert labeler, which CheXpert, MIMIC-CXR-JPG and BRAX share.
CHEXPERT = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
_LABELS = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": -1.0, "-1.0": -1.0, "": None}


def find(root: Path, *names: str, of: str) -> Path:
    """The first of a data set's files that is there, also with ``.gz`` at its end.

    Args:
        root: folder of the data set.
        names: in order of preference.
        of: what the data set is called.

    Raises:
        LlavaRadError: none is there.
    """
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.is_file():
                return path
    raise LlavaRadError(f"{of}: there is no {' or '.join(names)} in the folder", hint="name the data set's top folder")


def rows_of(path: Path, *columns: str, of: str) -> Iterator[dict[str, str]]:
    """The rows of a CSV table, plain or gzip.

    Args:
        path: the table.
        columns: that must be there.
        of: what the data set is called.

    Raises:
        LlavaRadError: a column is missing, a row is too short or too long, or the file is no such table.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            header = next(reader, [])
            missing = [column for column in columns if column not in header]
            if missing:
                raise LlavaRadError(f"{of}: its table has no column '{missing[0]}'")
            for number, cells in enumerate(reader, 1):
                if len(cells) != len(header):
                    raise LlavaRadError(f"{of}: row {number} of its table has {len(cells)} of {len(header)} cells")
                yield dict(zip(header, cells, strict=True))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error):
        raise LlavaRadError(f"{of}: its table cannot be read as CSV in UTF-8") from None


def view_of(text: str) -> View:
    """A view by the words that data sets use; unknown for others (oblique, lordotic, none)."""
    return _VIEWS.get(text.strip().upper(), "unknown")


def split_of(text: str) -> str:
    """train, val or test by the words that data sets use; "" for others."""
    return _SPLITS.get(text.strip().lower(), "")


def is_label(text: str) -> bool:
    """Whether a cell may hold a label: 1, 0, -1 or nothing."""
    return text.strip() in _LABELS


def labels_of(cells: Mapping[str, str], names: tuple[str, ...]) -> dict[str, float | None]:
    """The labels in some columns; what is not 1, 0 or -1 is unknown."""
    return {name: _LABELS.get(cells.get(name, "").strip()) for name in names}
