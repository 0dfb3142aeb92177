"""A MIMIC-CXR-JPG tree of a few images with the reports beside it, written out by hand."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Image(NamedTuple):
    """One line of the metadata table."""

    subject: str
    study: str
    name: str
    view: str = "PA"
    split: str = "train"


def make(root: Path, images: Sequence[Image], reports: Mapping[str, str]) -> Path:
    """Write ``mimic-cxr-jpg/`` with its tables and empty images, and ``mimic-cxr/`` with the report files.

    Args:
        root: folder of both.
        images: of the tables.
        reports: study -> text of the file.

    Returns:
        The folder of the images.
    """
    jpg, cxr = root / "mimic-cxr-jpg", root / "mimic-cxr"
    jpg.mkdir(parents=True)
    tables: dict[str, list[Sequence[str]]] = {
        "metadata": [("dicom_id", "subject_id", "study_id", "ViewPosition")],
        "split": [("dicom_id", "study_id", "subject_id", "split")],
    }
    for image in images:
        folder = f"files/p{image.subject[:2]}/p{image.subject}"
        put(jpg / folder / f"s{image.study}" / f"{image.name}.jpg", b"x")
        tables["metadata"].append((image.name, image.subject, image.study, image.view))
        tables["split"].append((image.name, image.study, image.subject, image.split))
        if image.study in reports:
            put(cxr / folder / f"s{image.study}.txt", reports[image.study].encode())
    for name, rows in tables.items():
        with (jpg / f"mimic-cxr-2.0.0-{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return jpg


def put(path: Path, data: bytes) -> None:
    """Write a file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
