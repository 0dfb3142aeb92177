"""Any folder with a table of its images: ``labels.csv`` or ``metadata.csv`` (or the table itself, by name).

Columns: ``image`` (path below the folder); where they are there, ``patient_id`` (or ``patientid``, ``subject_id``),
``study_id``, ``view`` and ``split``. A column ``label`` of words gives one label for each word. Any other column that
holds 0, 1, -1 and empty cells only, and a 0 or 1 somewhere, is a label of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from encoder.datasets.manifest import Row
from encoder.datasets.tables import find, is_label, labels_of, rows_of, split_of, view_of
from encoder.errors import LlavaRadError

_SUBJECT = ("patient_id", "patientid", "subject_id", "subject")
_STUDY = ("study_id", "study")
_NO_LABELS = {
    *_SUBJECT, *_STUDY, "image", "view", "split", "label", "age", "sex", "follow_up", "offset", "width", "height",
    "in_hannover", "openly_licensed", "in_icu", "went_icu",
}  # fmt: skip


def read(root: Path) -> Iterator[Row]:
    """The rows of the table in their order.

    Raises:
        LlavaRadError: there is no table, it has no column ``image``, or it is empty.
    """
    of = "the table of images"
    file = root if root.is_file() else find(root, "labels.csv", "metadata.csv", of=of)
    folder, rows = file.parent.absolute(), list(rows_of(file, "image", of=of))
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


def _first(row: dict[str, str], columns: Sequence[str]) -> str:
    return next((row[column].strip() for column in columns if column in row), "")


def _label_columns(rows: Sequence[dict[str, str]]) -> tuple[str, ...]:
    names = [name for name in rows[0] if name and name not in _NO_LABELS]
    return tuple(
        name for name in names if all(is_label(row[name]) for row in rows) and any(row[name].strip() for row in rows)
    )
