"""Kermany et al. 2018 (Mendeley Data 10.17632/rscbjbr9sj): radiographs of children, normal, bacterial, viral.

Original: ``train/NORMAL/IM-0115-0001.jpeg``, ``train/PNEUMONIA/person1_bacteria_1.jpeg``, ``test/...``, also below
``chest_xray/``; the file name holds patient and cause, the folder is the split (not disjoint everywhere: ``--split``
makes another). Prepared: ``labels.csv`` with ``image``, ``patient_id``, ``subtype``, ``split`` and ``duplicate_of``;
rows that are exact duplicates of another row are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from encoder.datasets.manifest import Row
from encoder.datasets.tables import read_csv
from encoder.datasets.values import checked, split_of
from encoder.errors import LlavaRadError

LABELS = {"normal": "Normal", "bacteria": "Bacterial pneumonia", "virus": "Viral pneumonia"}
_NAME = re.compile(r"(?P<person>person\d+)_(?P<cause>bacteria|virus)_.*|(?P<normal>(?:NORMAL\d-)?IM-\d+)-.*")


def read(root: Path) -> Iterator[Row]:
    """Yield the rows of ``labels.csv`` if it exists, else the files of the original folders."""
    table = root / "labels.csv"
    if table.is_file():
        columns = ("image", "patient_id", "subtype", "split")
        rows = list(enumerate(read_csv(table, *columns, of="Kermany"), 1))
        there = {Path(row["image"]).stem for _, row in rows}
        for number, row in rows:
            if row.get("duplicate_of") and Path(row["duplicate_of"]).stem in there:
                continue
            path = root / row["image"]
            cause = checked(row["subtype"], LABELS, f"Kermany: row {number}, column 'subtype'")
            yield _row(path, row["patient_id"], cause, split_of(row["split"]), number)
        return
    top = root / "chest_xray" if (root / "chest_xray").is_dir() else root
    files = [path for part in ("train", "val", "test") for path in sorted(top.glob(f"{part}/*/*.jpeg"))]
    if not files:
        raise LlavaRadError("Kermany: there is neither labels.csv nor train/NORMAL/*.jpeg in the folder")
    for number, path in enumerate(files, 1):
        name = _NAME.fullmatch(path.stem)
        if name is None:
            raise LlavaRadError(f"Kermany: the name of image {number} tells neither patient nor cause")
        subject, cause = name["person"] or name["normal"], name["cause"] or "normal"
        yield _row(path, subject, cause, split_of(path.parent.parent.name), number)


def _row(path: Path, subject: str, subtype: str, split: str, number: int) -> Row:
    labels: dict[str, float | None] = {label: float(subtype == kind) for kind, label in LABELS.items()}
    labels["Pneumonia"] = float(subtype != "normal")
    return Row(path, "kermany", subject, "", path.stem, "AP", split, labels, number)
