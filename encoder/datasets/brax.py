"""BRAX 1.1.0 (PhysioNet): 24,959 studies of a hospital in Sao Paulo, DICOM and PNG, CheXpert's labels.

``master_spreadsheet_update.csv``: ``DicomPath`` and ``PngPath`` (with ``Anonymized_DICOMs/`` and ``images/`` in front),
``PatientID``, ``AccessionNumber`` (the study), ``ViewPosition`` (PA, AP, L, LL, RL, decubitus, oblique), 14 labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from encoder.datasets.manifest import Row
from encoder.datasets.tables import find, read_csv
from encoder.datasets.values import CHEXPERT, labels_of
from encoder.reader.views import view_of


def read(root: Path) -> Iterator[Row]:
    """Yield the DICOM files if they exist, else the PNG files."""
    table = find(root, "master_spreadsheet_update.csv", "master_spreadsheet.csv", of="BRAX")
    column = "DicomPath" if (root / "Anonymized_DICOMs").is_dir() else "PngPath"
    rows = read_csv(table, column, "PatientID", "AccessionNumber", "ViewPosition", of="BRAX")
    for number, row in enumerate(rows, 1):
        yield Row(
            root / row[column],
            dataset="brax",
            subject=row["PatientID"],
            study=row["AccessionNumber"],
            image=Path(row[column]).stem,
            view=view_of(row["ViewPosition"]),
            labels=labels_of(row, CHEXPERT, f"BRAX: row {number}"),
            number=number,
        )
