"""IU-Xray (Indiana University): frontal images and the Findings of their reports; all of it is a test set.

Two layouts. Kaggle: ``indiana_reports.csv`` and ``indiana_projections.csv`` with
``images/images_normalized/1_IM-0001-4001.dcm.png``. Open-i: ``ecgen-radiology/*.xml`` with
``CXR1_1_IM-0001-4001.png`` or ``1_IM-0001-4001.dcm`` in any folder. The frontal
images are those of ``indiana_projections.csv``: Open-i's XML does not name them, and its DICOM headers say PA for 1,282
images that Rad-ReStruct does not list as frontal.

The paper's 3,306 images are the 3,307 frontal images of reports with Findings, minus that of report 202, whose Findings
are "AP and lateral view of the chest.".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from encoder.datasets.manifest import Row
from encoder.datasets.tables import find, keyed, read_csv
from encoder.datasets.values import known
from encoder.errors import LlavaRadError
from encoder.reader.views import View
from llava_rad.reports.pairs import Pair, collapse
from llava_rad.reports.registry import WITH_FINDINGS, Found, Places, Progress, in_threads
from llava_rad.reports.sections import names_views_only
from llava_rad.reports.studies import Image, Sections, join

_OF = "IU-Xray"
_WHOLE = ((3_851, 7_466), (3_955, 7_466))  # reports (Kaggle's, Open-i's) and rows of indiana_projections.csv
_KEY = re.compile(r"\d+_IM-\d+(?:-\d+)+")
_SUFFIXES = {".dcm": 0, ".png": 1, ".jpg": 2, ".jpeg": 2}  # preferred first: the original image
_LARGEST_XML = 1 << 20
_VIEWS: Mapping[str, View] = {"frontal": "frontal", "lateral": "lateral"}


def read(places: Places, progress: Progress) -> Found:
    """Find the pairs of either layout.

    Raises:
        LlavaRadError: if a table or the reports are missing, or a report is not XML or declares a document type.
    """
    listed, projections = _projections(places)
    table, folder = _reports(places)
    if table is not None:
        reports = keyed(read_csv(table, "uid", "findings", of=_OF), "uid", of=_OF)
        texts = {uid: _sections(row) for uid, row in reports}
        images = [(key, _uid(key)) for key in projections]
        source = "a table of reports"
    else:
        texts, images = _open_i(folder, progress)
        source = "Open-i's XML files"
    files = _files(places.root)
    there = [
        Image(Row(files[key], "iu-xray", uid, uid, key, view, "test", number=number))
        for number, (key, uid) in enumerate(images, 1)
        if key in files and (view := _VIEWS.get(projections.get(key, "")))
    ]
    frontal = sum(projections.get(key) == "frontal" for key, _ in images)
    rows = [image.row for image in there if image.row.view == "frontal"]
    with_report = [row for row in rows if row.subject in texts]
    pairs = [Pair(row, texts[row.subject].findings) for row in with_report if texts[row.subject].findings]
    kept = [pair for pair in pairs if not names_views_only(pair.findings)]
    steps = {
        "in the table of images": len(images),
        "frontal": frontal,
        "image file there": len(rows),
        "report there": len(with_report),
        WITH_FINDINGS: len(pairs),
        "Findings say more than the views": len(kept),
    }
    joined = join(kept, there, {("iu-xray", uid, uid): found for uid, found in texts.items()})
    for note in joined.notes:
        places.say(note)
    whole = (len(texts), len(projections)) in _WHOLE
    return Found(joined.pairs, steps, frontal - len(rows), source, (listed, table or folder), whole)


def _sections(texts: Mapping[str, str]) -> Sections:
    """Make the texts of a report from fields in lower case."""
    return Sections(
        *(
            collapse(known(texts.get(name) or ""))
            for name in ("findings", "impression", "indication", "technique", "comparison")
        )
    )


def _projections(places: Places) -> tuple[Path, dict[str, str]]:
    """Read the table of projections: its path, and image -> ``"frontal"`` or ``"lateral"``."""
    try:
        table = find(places.tables or places.root, "indiana_projections.csv", of=_OF)
    except LlavaRadError:
        raise LlavaRadError(
            f"{_OF}: there is no indiana_projections.csv in the folder, which lists the frontal images",
            hint="it belongs to the release on Kaggle; --tables names its folder (Open-i's headers are not reliable)",
        ) from None
    rows = read_csv(table, "filename", "projection", of=_OF)
    return table, {
        _key(name, number): row["projection"].strip().lower()
        for number, (name, row) in enumerate(keyed(rows, "filename", of=_OF), 1)
    }


def _reports(places: Places) -> tuple[Path | None, Path]:
    """Find the table of reports, or None and the folder of XML files."""
    given = places.reports
    if given is not None and given.is_file():
        return given, given.parent
    root = given or places.root
    try:
        return find(root, "indiana_reports.csv", of=_OF), root
    except LlavaRadError:
        pass
    for folder in (root, root / "ecgen-radiology", root / "NLMCXR_reports" / "ecgen-radiology"):
        if folder.is_dir() and any(folder.glob("*.xml")):
            return None, folder
    raise LlavaRadError(
        f"{_OF}: there is neither indiana_reports.csv nor a folder ecgen-radiology with XML files",
        hint="name the data set's top folder; --reports names the table or the folder of the reports",
    )


def _open_i(folder: Path, progress: Progress) -> tuple[dict[str, Sections], list[tuple[str, str]]]:
    """Read texts by report number, and the images (name, report number) in the order of the reports."""
    files = sorted(folder.glob("*.xml"), key=lambda file: (len(file.name), file.name))
    found: dict[str, Sections] = {}
    images: list[tuple[str, str]] = []
    parsed = in_threads(_report, files, progress("reports", len(files)))
    for number, (uid, texts, names) in enumerate(parsed, 1):
        if not uid or uid in found:
            raise LlavaRadError(f"{_OF}: XML file {number} has no number, or that of another one")
        found[uid] = texts
        images += [(_key(name, number), uid) for name in names]
    return found, images


def _report(file: Path) -> tuple[str, Sections, list[str]]:
    """Read number, texts and image names of an XML report."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_LARGEST_XML + 1)
        # Decoded first, so that the searched text is the parsed text. Without a document type no entities are expanded.
        text = data.decode("utf-8-sig")
        if len(data) > _LARGEST_XML or re.search("<!(?:DOCTYPE|ENTITY)", text, re.IGNORECASE):
            raise LlavaRadError(f"{_OF}: an XML file is larger than a report can be, or declares a document type")
        root = ElementTree.fromstring(text)
    except (OSError, ValueError, ElementTree.ParseError):
        raise LlavaRadError(f"{_OF}: an XML file cannot be read") from None
    number = root.find("uId")
    texts: dict[str, str] = {}
    for part in root.iter("AbstractText"):
        label = part.get("Label", "").strip().lower()
        texts[label] = f"{texts.get(label, '')} {''.join(part.itertext())}"
    uid = "" if number is None else number.get("id", "").removeprefix("CXR")
    return uid, _sections(texts), [image.get("id", "") for image in root.iter("parentImage")]


def _files(root: Path) -> dict[str, Path]:
    """Map image keys, which both layouts share, to the files below a folder."""
    found: dict[str, tuple[int, Path]] = {}
    for file in _walk(root):
        rank, match = _SUFFIXES.get(file.suffix.lower()), _KEY.search(file.name)
        if rank is not None and match is not None:
            found[match[0]] = min(found.get(match[0], (rank, file)), (rank, file))
    return {key: file for key, (_, file) in found.items()}


def _walk(root: Path) -> Iterator[Path]:
    """Yield the files below a folder and in linked folders: images are often on another disk. Each is entered once."""
    seen: set[Path] = set()
    for parent, folders, names in os.walk(root, followlinks=True):
        folder = Path(parent).resolve()
        if folder in seen:
            folders.clear()
            continue
        seen.add(folder)
        yield from (Path(parent, name) for name in names)


def _key(name: str, number: int) -> str:
    """Extract ``1_IM-0001-4001`` from ``1_IM-0001-4001.dcm.png`` and from ``CXR1_1_IM-0001-4001``."""
    match = _KEY.search(name)
    if match is None:
        raise LlavaRadError(f"{_OF}: row {number} of its images has a name of another form")
    return match[0]


def _uid(key: str) -> str:
    return key.partition("_")[0]
