"""Read the NIH ChestX-ray14 subset: images, labels, sides from the few boxes, patient-disjoint splits."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from encoder.errors import ModelError

LABELS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
"""The 14 findings of NIH ChestX-ray14 in the order of its tables."""

NO_FINDING = "No Finding"

Side = Literal["left", "right", "bilateral"]

_BOX_NAMES = {"Infiltrate": "Infiltration"}
_BOX_SPAN = 1024.0


@dataclass(frozen=True)
class Case:
    """One image with its labels.

    Attributes:
        path: the image file.
        patient: NIH's patient number, used for splitting only.
        labels: the findings present; empty means "No Finding".
        sides: the patient's side of a finding, only where an NIH box gives it.
        unknown: findings of which the label says nothing; never those of ``labels``.
    """

    path: Path
    patient: str
    labels: frozenset[str]
    sides: dict[str, Side]
    unknown: frozenset[str] = frozenset()


def read_cases(folder: Path, split: str) -> list[Case]:
    """Read the cases of one split (`train` or `val`), in the order of the table.

    Args:
        folder: The folder with `labels.csv`, `images/` and, if there are any boxes, `bboxes_1024px.csv`.
        split: Value of the table's column `split`.

    Raises:
        ModelError: if the table is missing or has no such split.
    """
    table = folder / "labels.csv"
    if not table.is_file():
        raise ModelError(
            "labels.csv is not in the data folder: --data takes the folder of the NIH ChestX-ray14 subset."
        )
    sides = _read_sides(folder / "bboxes_1024px.csv")
    cases = []
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] != split:
                continue
            labels = frozenset(label for label in LABELS if row[label] == "1")
            known = {label: side for label, side in sides.get(row["nih_image_index"], {}).items() if label in labels}
            cases.append(Case(folder / row["image"], row["patient_id"], labels, known))
    if not cases:
        raise ModelError(f"labels.csv has no rows of the split {split!r}.")
    return cases


def _read_sides(table: Path) -> dict[str, dict[str, Side]]:
    """Image name -> finding -> the patient's side, from boxes given in 1024-px image coordinates."""
    boxes: dict[tuple[str, str], list[tuple[float, float]]] = {}
    if table.is_file():
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                finding = _BOX_NAMES.get(row["Finding Label"], row["Finding Label"])
                left = float(row["Bbox [x"])  # the source's own broken column names
                boxes.setdefault((row["Image Index"], finding), []).append((left, left + float(row["w"])))
    sides: dict[str, dict[str, Side]] = {}
    for (image, finding), spans in boxes.items():
        side = box_side(spans)
        if side is not None:
            sides.setdefault(image, {})[finding] = side
    return sides


def box_side(spans: Sequence[tuple[float, float]]) -> Side | None:
    """Patient's side of some boxes; the patient's left is on the right of the image.

    Args:
        spans: (x from, x to) of each box in 1024-px coordinates. A box that reaches more than a tenth of the image
            width across the middle has no side.

    Returns:
        None if any box has no side.
    """
    middle, slack = _BOX_SPAN / 2, _BOX_SPAN / 10
    found: set[Side] = set()
    for start, end in spans:
        if start >= middle - slack and (start + end) / 2 > middle:
            found.add("left")
        elif end <= middle + slack and (start + end) / 2 < middle:
            found.add("right")
        else:
            return None
    if len(found) == 2:
        return "bilateral"
    return found.pop() if found else None


def hold_out(cases: Sequence[Case], share: float = 0.15, salt: str = "demo") -> tuple[list[Case], list[Case]]:
    """Split by patient into a part to fit on and a held-out part for early stopping.

    A patient's side of the split depends on the patient's number alone, so it is the same on every machine.
    """

    def is_held_out(case: Case) -> bool:
        digest = hashlib.sha256(f"{salt}:{case.patient}".encode()).digest()
        return int.from_bytes(digest[:4], "big") < share * 2**32

    held = [is_held_out(case) for case in cases]
    fit = [case for case, out in zip(cases, held, strict=True) if not out]
    return fit, [case for case, out in zip(cases, held, strict=True) if out]
