"""covid-chestxray (Cohen et al. 2020): X-rays from publications, one licence for each image, free-text notes.

Original (GitHub ieee8023/covid-chestxray-dataset): ``metadata.csv`` with ``patientid``, ``sex``, ``age``, ``finding``,
``view``, ``modality``, ``folder``, ``filename``. Prepared: the same with ``image`` and ``lung_mask``; masks beside the
original are found as ``lung_masks/STEM.png``. Only X-rays are read; a finding that is still "todo" is unknown.
``license_stated`` (or ``license``) becomes the attribute ``licence``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from encoder.datasets.manifest import Row
from encoder.datasets.masks import MaskFiles, naming
from encoder.datasets.tables import find, read_csv
from encoder.datasets.tuberculosis import both_sides
from encoder.datasets.values import attributes_of
from encoder.reader.views import view_of

LABELS = ("COVID-19", "Pneumonia", "No Finding")
_UNKNOWN = {"", "todo", "unknown"}
_NO_PNEUMONIA = {"no finding", "tuberculosis", "ards"}


def read(root: Path, masks: MaskFiles, seed: int) -> Iterator[Row]:
    """Yield the X-rays with the masks ``lungs`` and, where a line separates them, ``left lung`` and ``right lung``."""
    of = "covid-chestxray"
    columns = ("patientid", "sex", "age", "finding", "view", "modality")
    for number, row in enumerate(read_csv(find(root, "metadata.csv", of=of), *columns, of=of), 1):
        if row["modality"] != "X-ray":
            continue
        path = root / (row.get("image") or f"{row.get('folder') or 'images'}/{row.get('filename', '')}")
        mask = root / (row.get("lung_mask") or f"lung_masks/{path.stem}.png")
        drawn: dict[str, Path] = {}
        if mask.is_file():
            with naming(of, number):
                drawn = both_sides(masks, path, re.sub(r"[^\w.-]", "_", path.stem), [mask]) | {"lungs": mask}
        yield Row(
            path,
            dataset="covid",
            subject=row["patientid"],
            image=path.name,
            view=view_of(row["view"]),
            labels=_labels(row["finding"]),
            number=number,
            masks=drawn,
            attributes=attributes_of(
                row["sex"], row["age"], licence=row.get("license_stated") or row.get("license") or ""
            ),
        )


def _labels(finding: str) -> dict[str, float | None]:
    words = {word.strip().lower() for word in re.split(r"[,/]", finding)}
    if words & _UNKNOWN:
        return dict.fromkeys(LABELS)
    pneumonia = not words <= _NO_PNEUMONIA
    return {
        "COVID-19": float("covid-19" in words),
        "Pneumonia": None if words == {"ards"} else float(pneumonia),
        "No Finding": float("no finding" in words),
    }
