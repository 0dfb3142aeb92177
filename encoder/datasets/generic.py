"""Images without a published layout: any folder of images, or a folder with a table of its images.

Folder: the DICOM, PNG, JPEG, TIFF and WebP files in it and below it, without labels.

Table: ``labels.csv``, ``metadata.csv``, or another CSV file by its path. Required column: ``image`` (path below the
folder). Optional: ``patient_id`` (or ``patientid``, ``subject_id``), ``study_id``, ``view`` and ``split``. A column
``label`` of words gives one label for each word. Any other column that holds 0, 1, -1 and empty cells only, and a 0 or
1 somewhere, is a label of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from encoder.datasets.manifest import Row
from encoder.datasets.tables import find, read_csv
from encoder.datasets.values import is_label, labels_of, split_of
from encoder.errors import LlavaRadError
from encoder.reader.views import view_of

_SUFFIXES = {".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"}
_SUBJECT = ("patient_id", "patientid", "subject_id", "subject")
_STUDY = ("study_id", "study")
_NO_LABELS = {
    *_SUBJECT, *_STUDY, "image", "view", "split", "label", "age", "sex", "follow_up", "offset", "width", "height",
    "in_hannover", "openly_licensed", "in_icu", "went_icu",
}  # fmt: skip


def read_folder(root: Path) -> Iterator[Row]:
    """Yield the images in the order of their paths; files without suffix count if they begin like DICOM files.

    Hidden files, DICOMDIR and symbolic links to folders are skipped.

    Raises:
        LlavaRadError: if there is no such folder, or no image in it.
    """
    root = root.absolute()
    if not root.is_dir():
        raise LlavaRadError("the folder of images does not exist")
    number = 0
    for number, path in enumerate(_images(root), 1):
        yield Row(path, dataset=root.name, image=path.relative_to(root).as_posix(), number=number)
    if not number:
        raise LlavaRadError("there is no DICOM, PNG, JPEG, TIFF or WebP file in the folder")


def read_table(root: Path) -> Iterator[Row]:
    """Yield the rows of the table in their order.

    Raises:
        LlavaRadError: if there is no table, it has no column ``image``, or it is empty.
    """
    of = "the table of images"
    file = root if root.is_file() else find(root, "labels.csv", "metadata.csv", of=of)
    folder, rows = file.parent.absolute(), list(read_csv(file, "image", of=of))
    if not rows:
        raise LlavaRadError(f"{of} is empty")
    columns = _label_columns(rows)
    words = sorted({row["label"].strip() for row in rows} - {""}) if "label" in rows[0] else []
    if set(words) <= {"0", "1", "-1"}:
        words, columns = [], (*columns, "label") if words else columns
    for number, row in enumerate(rows, 1):
        labels = labels_of(row, columns)
        if words:
            given = row["label"].strip()
            labels |= {word: float(word == given) if given else None for word in words}
        yield Row(
            folder / row["image"],
            dataset=folder.name,
            subject=_first(row, _SUBJECT),
            study=_first(row, _STUDY),
            image=row["image"],
            view=view_of(row.get("view", "")),
            split=split_of(row.get("split", "")),
            labels=labels,
            number=number,
        )


def _images(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith(".") and (path.suffix.lower() in _SUFFIXES or _is_dicom(path)):
                yield path


def _is_dicom(path: Path) -> bool:
    if path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _first(row: dict[str, str], columns: Sequence[str]) -> str:
    return next((row[column].strip() for column in columns if column in row), "")


def _label_columns(rows: Sequence[dict[str, str]]) -> tuple[str, ...]:
    names = [name for name in rows[0] if name and name not in _NO_LABELS]
    return tuple(
        name for name in names if all(is_label(row[name]) for row in rows) and any(row[name].strip() for row in rows)
    )
