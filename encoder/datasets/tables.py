"""What the adapters share: reading a data set's own tables, and its words for views, splits and labels."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from encoder.datasets.manifest import View
from encoder.errors import LlavaRadError

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


def project(root: Path, names: Sequence[str], markers: Sequence[str], *, of: str) -> Path:
    """The folder of one of several data sets that lie side by side, as PhysioNet's downloads do.

    Args:
        root: has ``NAME`` or ``NAME/VERSION`` in it (the highest version is taken), or is the data set itself.
        names: in order of preference.
        markers: files or folders of which the data set has one, also with ``.gz``; empty: any folder of that name.
        of: what is to be read.

    Raises:
        LlavaRadError: none is there.
    """
    for name in names:
        versions = sorted((root / name).glob("[0-9]*"), reverse=True) if (root / name).is_dir() else []
        for folder in (*versions, root / name):
            if folder.is_dir() and (not markers or _has(folder, markers)):
                return folder
    if markers and _has(root, markers):
        return root
    wanted = f"{' or '.join(names)}" + (f" with {' or '.join(markers)}" if markers else "")
    raise LlavaRadError(f"{of}: there is no {wanted} in the folder", hint="name the folder that has all of them in it")


def _has(folder: Path, markers: Sequence[str]) -> bool:
    return any((folder / f"{marker}{suffix}").exists() for marker in markers for suffix in ("", ".gz"))


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


def attributes_of(sex: str = "", age: str = "", **more: str) -> dict[str, str]:
    """Attributes of a row from a table's words: "Female", "m", "057Y", "54.0"; what cannot be read is left out."""
    years = re.fullmatch(r"0*(\d{1,3})(?:\.\d+)?\s*[Yy]?", age.strip())
    found = {"sex": sex.strip()[:1].upper(), "age": years[1] if years else ""}
    return {name: value for name, value in (found | more).items() if value and (name != "sex" or value in ("F", "M"))}


def is_label(text: str) -> bool:
    """Whether a cell may hold a label: 1, 0, -1 or nothing."""
    return text.strip() in _LABELS


def labels_of(cells: Mapping[str, str], names: tuple[str, ...]) -> dict[str, float | None]:
    """The labels in some columns; what is not 1, 0 or -1 is unknown."""
    return {name: _LABELS.get(cells.get(name, "").strip()) for name in names}
