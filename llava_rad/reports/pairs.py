"""The table of image-report pairs, which readers of data sets write and training and benchmarks read.

JSON lines or CSV in UTF-8, one image each: ``id``, ``image`` (path, relative to the table's folder if it is inside),
``findings``, ``dataset``, ``subject``, ``study``, ``view``, ``split``. Other tables of images and texts are read too:
the usual names of these fields are known, other fields are ignored.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder.datasets.manifest import Row
from encoder.datasets.tables import read_records
from encoder.datasets.values import SPLITS, split_of
from encoder.errors import LlavaRadError
from encoder.files import reported, writing
from encoder.reader.views import FRONTAL, stated, view_of

FIELDS = ("id", "image", "findings", "dataset", "subject", "study", "view", "split")
_NAMES = {
    "image": ("image", "image_path", "path", "file", "filename"),
    "findings": ("findings", "report", "text", "reference", "caption"),
    "subject": ("subject", "subject_id", "patient_id"),
    "study": ("study", "study_id"),
}
"""Names of a field; the first that exists is taken."""
_LISTED = 5


@dataclass(frozen=True, slots=True)
class Pair:
    """One image and the Findings section of its report.

    Attributes:
        row: the image, as in a manifest.
        findings: text with white space collapsed; case, punctuation, ``___`` and ``XXXX`` are unchanged.
        odd_view: a view is stated, but it is not known, or several are; the row's view is ``"unknown"``.
    """

    row: Row
    findings: str
    odd_view: bool = False

    @property
    def id(self) -> str:
        """Unique within a table."""
        return self.row.image or str(self.row.path)


def frontal(pair: Pair) -> bool:
    """Tell whether a pair is of a frontal image, or of one whose view is not stated or not known."""
    return pair.row.view in FRONTAL or pair.row.view == "unknown"


def collapse(text: str) -> str:
    """Replace each run of white space by a single space."""
    return " ".join(text.split())


def read_pairs(file: Path) -> list[Pair]:
    """Read a table of pairs, as CSV or JSON lines by its suffix.

    Raises:
        LlavaRadError: if it does not exist, is not such a table, or a row lacks its image or text or repeats an id;
            messages name rows by number and quote none of their content.
    """
    if not file.exists():
        raise LlavaRadError("the table of pairs does not exist", hint="llava-rad reports writes one")
    rows = read_records(file, of="the table of pairs")
    home = Path(os.path.normpath(file.parent.absolute()))
    pairs: list[Pair] = []
    places: dict[str, int] = {}
    empty: list[int] = []
    twice: list[tuple[int, int]] = []
    for number, cells in enumerate(rows, 1):
        pair = _pair(cells, home, number)
        if not pair.findings:
            empty.append(number)
        if (first := places.setdefault(pair.id, number)) != number:
            twice.append((first, number))
        pairs.append(pair)
    if not pairs:
        raise LlavaRadError("the table of pairs is empty")
    if empty:
        raise LlavaRadError(f"{len(empty)} rows of the table of pairs have no text: {_listed(empty)}")
    if twice:
        raise LlavaRadError(
            f"{len(twice)} ids occur in the table of pairs more than once: rows "
            + _listed([f"{first} and {second}" for first, second in twice])
        )
    return pairs


def write_pairs(pairs: Iterable[Pair], file: Path) -> None:
    """Write a table of pairs atomically, as CSV or JSON lines by its suffix.

    Raises:
        LlavaRadError: if the file cannot be written.
    """
    home = os.path.normpath(file.parent.absolute())
    inside = f"{home}{os.sep}"
    with reported("the table of pairs"), writing(file, "w") as stream:
        table = csv.writer(stream, lineterminator="\n") if file.suffix.lower() == ".csv" else None
        if table:
            table.writerow(FIELDS)
        for pair in pairs:
            row = pair.row
            image = str(row.path).removeprefix(inside).replace(os.sep, "/")
            cells = (pair.id, image, pair.findings, row.dataset, row.subject, row.study, row.view, row.split)
            if table:
                table.writerow(cells)
            else:
                stream.write(json.dumps(dict(zip(FIELDS, cells, strict=True)), ensure_ascii=False) + "\n")


def _pair(cells: Mapping[str, Any], home: Path, number: int) -> Pair:
    def text(field: str) -> str:
        # by row: a record of JSON lines need not have the fields of the first one
        name = next((name for name in _NAMES.get(field, (field,)) if name in cells), field)
        value = cells.get(name)
        if value is not None and not isinstance(value, str | int):
            raise LlavaRadError(f"row {number} of the table of pairs: {name} is not text")
        return "" if value is None else str(value)

    image = text("image")
    if not image or "\0" in image:
        raise LlavaRadError(
            f"row {number} of the table of pairs names no image",
            hint=f"the image's field is one of {', '.join(_NAMES['image'])}",
        )
    if not any(name in cells for name in _NAMES["findings"]):
        raise LlavaRadError(
            f"row {number} of the table of pairs has no field with the report",
            hint=f"it is one of {', '.join(_NAMES['findings'])}",
        )
    split = text("split").strip()
    if split and split not in SPLITS and not split_of(split):
        raise LlavaRadError(f"row {number} of the table of pairs: the split is none of train, val, test or empty")
    view = text("view").strip()
    return Pair(
        Row(
            Path(os.path.normpath(image if image[0] == "/" else f"{home}/{image}")),
            dataset=text("dataset"),
            subject=text("subject").strip(),
            study=text("study").strip(),
            image=text("id").strip() or image,
            view=view_of(view),
            split=split_of(split),
            number=number,
        ),
        collapse(text("findings")),
        odd_view=stated(view) and view_of(view) == "unknown",
    )


def _listed(found: list[Any]) -> str:
    return ", ".join(map(str, found[:_LISTED])) + (", ..." if len(found) > _LISTED else "")
