"""MIMIC-CXR 2 (PhysioNet), DICOM or JPEG: frontal images and the Findings of their studies, official splits.

The paper (2.2.1): official splits, non-frontal images removed, samples without a Findings section dropped. Frontal is
``ViewPosition`` AP or PA in the metadata table. The reports are the files ``files/p10/p10000032/s50414267.txt`` of
MIMIC-CXR, or the table ``mimic_cxr_sectioned.csv`` that MIT-LCP's scripts make of them. Laterals and earlier studies
come from the same table of images, by ``ViewPosition``, ``StudyDate`` and ``StudyTime``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from encoder.datasets.manifest import Row
from encoder.datasets.tables import find, keyed, read_csv
from encoder.datasets.values import known, split_of
from encoder.errors import LlavaRadError
from encoder.reader.views import view_of
from llava_rad.reports.pairs import Pair, collapse
from llava_rad.reports.registry import Found, Places, Progress, in_threads, there
from llava_rad.reports.sections import HAND_MADE, last_section, split_sections
from llava_rad.reports.studies import Image, Sections, join, moment

IMAGES = 377_110
"""Rows of the metadata table of the whole data set."""
_VERSIONS = ("2.0.0", "2.1.0")
_SECTIONED = "mimic_cxr_sectioned.csv"
_LARGEST_REPORT = 1 << 20
_PROBED = 256


def read_dicom(places: Places, progress: Progress) -> Found:
    """Find the pairs of MIMIC-CXR: .dcm files; the tables of images are those of MIMIC-CXR-JPG."""
    return _read(places, progress, "MIMIC-CXR", ".dcm")


def read_jpeg(places: Places, progress: Progress) -> Found:
    """Find the pairs of MIMIC-CXR-JPG: .jpg files; the reports are those of MIMIC-CXR."""
    return _read(places, progress, "MIMIC-CXR-JPG", ".jpg")


def _read(places: Places, progress: Progress, of: str, suffix: str) -> Found:
    metadata, splits = _tables(places, of)
    table = keyed(read_csv(splits, "dicom_id", "split", of=of), "dicom_id", of=of)
    split = {image: split_of(row["split"]) for image, row in table}
    rows: list[Row] = []
    images: list[Image] = []
    total = 0
    for total, cells in enumerate(read_csv(metadata, "dicom_id", "subject_id", "study_id", "ViewPosition", of=of), 1):
        view = view_of(cells["ViewPosition"])
        if cells["ViewPosition"] not in ("AP", "PA") and view != "lateral":
            continue
        subject, study, image = cells["subject_id"], cells["study_id"], cells["dicom_id"]
        if not (subject + study).isdecimal() or not re.fullmatch("[0-9A-Za-z-]+", image):
            raise LlavaRadError(f"{of}: row {total} of its table of images has an id of another form")
        path = places.root / "files" / _folder(subject) / f"s{study}" / f"{image}{suffix}"
        row = Row(path, "mimic-cxr", subject, study, image, view, split.get(image, ""), number=total)
        images.append(Image(row, moment(cells.get("StudyDate", ""), cells.get("StudyTime", ""))))
        if view != "lateral":
            rows.append(row)
    steps = {"in the table of images": total, "frontal (AP or PA)": len(rows)}
    # before the images, so that a missing source is reported at once
    source = _source(places, rows, of)
    present = in_threads(lambda image: there(image.row.path), images, progress("images", len(images)))
    images = [image for image, is_there in zip(images, present, strict=True) if is_there]
    kept = [image.row for image in images if image.row.view != "lateral"]
    missing, rows = len(rows) - len(kept), kept
    texts = _sectioned(source, of) if source.is_file() else _from_files(source, rows, progress, of)
    with_report = [row for row in rows if row.study in texts]
    pairs = [Pair(row, texts[row.study].findings) for row in with_report if texts[row.study].findings]
    steps |= {
        "image file there": len(rows),
        "report there, sectioned by rule": len(with_report),
        "Findings section in it": len(pairs),
    }
    of_studies = {("mimic-cxr", row.subject, row.study): texts[row.study] for row in with_report}
    joined = join(pairs, images, of_studies)
    for note in joined.notes:
        places.say(note)
    kind = "a table of sections" if source.is_file() else "report files"
    return Found(joined.pairs, steps, missing, kind, (metadata, splits, source), whole=total == IMAGES)


def _tables(places: Places, of: str) -> tuple[Path, Path]:
    """Find the tables of images and splits: in the given folder, else beside the images or in MIMIC-CXR-JPG."""
    folders = [places.tables] if places.tables else [places.root, places.root.parent / "mimic-cxr-jpg"]
    names = [[f"mimic-cxr-{version}-{table}.csv" for version in _VERSIONS] for table in ("metadata", "split")]
    for folder in folders:
        try:
            metadata, split = (find(folder, *wanted, of=of) for wanted in names)
            return metadata, split
        except LlavaRadError:
            continue
    raise LlavaRadError(
        f"{of}: there are no tables {' and '.join(wanted[0] for wanted in names)}",
        hint="they belong to MIMIC-CXR-JPG; --tables names the folder that they are in",
    )


def _source(places: Places, rows: list[Row], of: str) -> Path:
    """Find the table of sections or the folder of report files: the given one, else one near the images."""
    given, root = places.reports, places.root
    if given is not None and given.is_file():
        return given
    nearby = [root, root / "reports", root / "mimic-cxr-reports", places.tables, root.parent / "mimic-cxr"]
    probes = rows[:: max(1, len(rows) // _PROBED)]  # from all folders: downloads may be partial
    for folder in [given] if given is not None else nearby:
        if folder is None:
            continue
        for table in (folder / _SECTIONED, folder / f"{_SECTIONED}.gz"):
            if there(table):
                return table
        for files in (folder / "files", folder):
            if any(there(_report(files, row)) for row in probes):
                return files
    raise LlavaRadError(
        f"{of}: there are neither report files nor a {_SECTIONED}",
        hint="--reports names the folder 'files' of MIMIC-CXR's reports, or the table",
    )


def _sectioned(file: Path, of: str) -> dict[str, Sections]:
    """Read texts by study; the table has no indication and no technique."""
    rows = read_csv(file, "study", "findings", of=f"{of}: {_SECTIONED}")
    table = keyed(rows, "study", of=f"{of}: {_SECTIONED}")
    return {
        study.removeprefix("s"): Sections(
            collapse(known(row["findings"])),
            collapse(known(row.get("impression", ""))),
            comparison=collapse(known(row.get("comparison", ""))),
        )
        for study, row in table
    }


def _from_files(files: Path, rows: Iterable[Row], progress: Progress, of: str) -> dict[str, Sections]:
    """Read texts by study, of studies whose report exists and is not one of those sectioned by hand."""
    studies = list({row.study: row for row in rows if row.study not in HAND_MADE}.values())
    texts = in_threads(lambda row: _sections(_report(files, row), of), studies, progress("reports", len(studies)))
    return {row.study: text for row, text in zip(studies, texts, strict=True) if text is not None}


def _sections(path: Path, of: str) -> Sections | None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_LARGEST_REPORT + 1)
    except FileNotFoundError:
        return None
    except OSError:
        raise LlavaRadError(f"{of}: a report file cannot be read") from None
    if len(text) > _LARGEST_REPORT:
        raise LlavaRadError(f"{of}: a report file is larger than a report can be")
    found = split_sections(text)
    findings, impression, indication, history, technique, comparison = (
        collapse(last_section(found, name))
        for name in ("findings", "impression", "indication", "history", "technique", "comparison")
    )
    return Sections(
        findings, known(impression), known(indication) or known(history), known(technique), known(comparison)
    )


def _report(files: Path, row: Row) -> Path:
    return files / _folder(row.subject) / f"s{row.study}.txt"


def _folder(subject: str) -> str:
    return f"p{subject[:2]}/p{subject}"
