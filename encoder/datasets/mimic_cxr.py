"""MIMIC-CXR 2 (PhysioNet): DICOM or, as MIMIC-CXR-JPG, JPEG; 14 labels by study; official splits.

``mimic-cxr-2.0.0-metadata.csv`` (``dicom_id``, ``subject_id``, ``study_id``, ``ViewPosition``), ``-split.csv`` and
``-chexpert.csv`` belong to MIMIC-CXR-JPG. The DICOM release has the same image ids in the same folders
``files/p10/p10000032/s50414267/``, but no such tables: put them beside ``files``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

from encoder.datasets.manifest import Row
from encoder.datasets.tables import find, keyed, read_csv
from encoder.datasets.values import CHEXPERT, labels_of, split_of
from encoder.reader.views import view_of

METADATA = ("mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.1.0-metadata.csv")


def read_dicom(root: Path) -> Iterator[Row]:
    """Yield the images of MIMIC-CXR: .dcm files."""
    return _read(root, "MIMIC-CXR", "mimic-cxr", ".dcm")


def read_jpeg(root: Path) -> Iterator[Row]:
    """Yield the images of MIMIC-CXR-JPG: .jpg files. Its rows are called mimic-cxr too: subjects are the same."""
    return _read(root, "MIMIC-CXR-JPG", "mimic-cxr", ".jpg")


def read(root: Path) -> Iterator[Row]:
    """Yield the rows of the release that has an image file for the first row."""
    first = next(read_jpeg(root), None)
    return read_jpeg(root) if first is None or first.path.is_file() else read_dicom(root)


def study_dates(root: Path) -> dict[str, date]:
    """Map images to the day of their study, if known; it is shifted as all dates of the patient in MIMIC-IV."""
    dates = {}
    table = find(root, *METADATA, of="MIMIC-CXR")
    for row in read_csv(table, "dicom_id", "StudyDate", of="MIMIC-CXR"):
        try:
            dates[row["dicom_id"]] = date.fromisoformat(row["StudyDate"].strip())
        except ValueError:
            continue
    return dates


def _read(root: Path, of: str, dataset: str, suffix: str) -> Iterator[Row]:
    metadata, splits, chexpert = (
        find(root, *(f"mimic-cxr-{version}-{table}.csv" for version in ("2.0.0", "2.1.0")), of=of)
        for table in ("metadata", "split", "chexpert")
    )
    table = keyed(read_csv(splits, "dicom_id", "split", of=of), "dicom_id", of=of)
    split = {image: split_of(row["split"]) for image, row in table}
    table = keyed(read_csv(chexpert, "study_id", *CHEXPERT, of=of), "study_id", of=of)
    labels: dict[str, Mapping[str, float | None]] = {
        study: labels_of(row, CHEXPERT, f"{of}: the labels of row {number}")
        for number, (study, row) in enumerate(table, 1)
    }
    unknown: Mapping[str, float | None] = dict.fromkeys(CHEXPERT)
    rows = read_csv(metadata, "dicom_id", "subject_id", "study_id", "ViewPosition", of=of)
    for number, row in enumerate(rows, 1):
        subject, study, image = row["subject_id"], row["study_id"], row["dicom_id"]
        yield Row(
            root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{image}{suffix}",
            dataset=dataset,
            subject=subject,
            study=study,
            image=image,
            view=view_of(row["ViewPosition"]),
            split=split.get(image, ""),
            labels=labels.get(study, unknown),
            number=number,
        )
