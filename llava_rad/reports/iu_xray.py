"""IU-Xray (Open-i, Indiana University), as on Kaggle or as the National Library of Medicine gives it.

Kaggle: ``indiana_reports.csv`` (``uid``, ``findings``), ``indiana_projections.csv`` (``uid``, ``filename``,
``projection``), ``images/images_normalized/``. Open-i: ``ecgen-radiology/*.xml`` and ``CXR1_1_IM-0001-4001.png`` or
DICOM files; which image is frontal stands in Kaggle's projections table, put beside, or in the DICOM header.

3,307 frontal images have findings. The paper has 3,306: without the one report (uid 202) whose findings only name the
views. All of it is for testing: the paper never trains on it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from encoder.datasets.tables import find, rows_of
from encoder.errors import LlavaRadError, ReadError
from encoder.manifest import Row, View
from llava_rad.reports.pairs import Pair, collapse
from llava_rad.reports.selection import Read, only_names_views

PAPER = 3_306
BEFORE = 3_307
"""Frontal images with findings before the exclusion."""
_WHOLE = 7_466
_REPORTS, _PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"
_OF = "IU-Xray"
_IMAGE = re.compile(r"(?:CXR)?(\d+)_(?:\d+_)?(IM-[\w-]+?)(?:\.dcm)?(?:\.png|\.jpg|\.dcm)?", re.IGNORECASE)
_LARGEST = 1 << 20
_ENTITY = re.compile(rb"<!(?:DOCTYPE|ENTITY)", re.IGNORECASE)

Found = tuple[str, str, Path | None, View]  # uid, name of the image, its file, view


def read(root: Path, *, advance: Callable[[int], None] = lambda number: None) -> Read:
    """Read the data set.

    Args:
        root: top folder.
        advance: called with numbers of images looked at.

    Raises:
        LlavaRadError: reports or images are not found, a table or XML file is damaged, or it cannot be known which
            images are frontal.
    """
    if (root / _REPORTS).is_file():
        findings = {
            row["uid"]: collapse(row["findings"]) for row in rows_of(root / _REPORTS, "uid", "findings", of=_OF)
        }
        images = list(_kaggle(root, advance))
    else:
        findings, names = _open_i(root)
        images = list(_named(root, names, advance))
    result = Read(steps={"images": len(images)}, complete=len(images) == _WHOLE)
    frontal = [image for image in images if image[3] != "lateral"]
    result.steps["frontal"] = len(frontal)
    there = [image for image in frontal if image[2] is not None]
    result.missing = len(frontal) - len(there)
    result.steps["image file there"] = len(there)
    told = [image for image in there if findings.get(image[0])]
    result.steps["with Findings"] = len(told)
    for uid, name, path, view in told:
        if path is not None and not only_names_views(findings[uid]):
            row = Row(path, dataset="iu-xray", subject=uid, study=uid, image=name, view=view, split="test")
            result.pairs.append(Pair(row, findings[uid]))
    result.steps["not only the name of a view"] = len(result.pairs)
    return result


def _kaggle(root: Path, advance: Callable[[int], None]) -> Iterator[Found]:
    files = _files(root)
    for row in rows_of(find(root, _PROJECTIONS, of=_OF), "uid", "filename", "projection", of=_OF):
        advance(1)
        lateral = row["projection"].strip().lower() != "frontal"
        yield row["uid"], row["filename"], files.get(row["filename"].lower()), "lateral" if lateral else "frontal"


def _open_i(root: Path) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Findings by uid, and the images of each uid."""
    folder = root / "ecgen-radiology" if (root / "ecgen-radiology").is_dir() else root
    files = sorted(folder.glob("*.xml"), key=lambda path: (len(path.stem), path.stem))
    if not files:
        raise LlavaRadError(
            f"{_OF}: there is neither {_REPORTS} nor a folder ecgen-radiology with XML files",
            hint="name the data set's top folder",
        )
    findings: dict[str, str] = {}
    names: list[tuple[str, str]] = []
    for number, file in enumerate(files, 1):
        top = _parse(file, number)
        uid = (_attribute(top, "uId", "id") or file.stem).removeprefix("CXR")
        texts = [part.text or "" for part in top.iter("AbstractText") if part.get("Label") == "FINDINGS"]
        findings[uid] = collapse(" ".join(texts))
        names += [(uid, image) for part in top.iter("parentImage") if (image := part.get("id"))]
    return findings, names


def _named(root: Path, names: Iterable[tuple[str, str]], advance: Callable[[int], None]) -> Iterator[Found]:
    """Open-i's images with their files and views."""
    files = {key: path for path in _files(root).values() if (key := _key(path.name))}
    projections = root / _PROJECTIONS
    views: dict[tuple[str, str], View] = {}
    if projections.is_file():
        for row in rows_of(projections, "uid", "filename", "projection", of=_OF):
            if key := _key(row["filename"]):
                views[key] = "frontal" if row["projection"].strip().lower() == "frontal" else "lateral"
    reader = None
    try:
        for uid, name in names:
            advance(1)
            known = _key(name)
            path = files.get(known) if known else None
            view = views.get(known) if known else None
            if view is None and path is not None:
                if path.suffix.lower() == ".png":
                    raise LlavaRadError(
                        f"{_OF}: nothing says which of the PNG images are frontal",
                        hint=f"put Kaggle's {_PROJECTIONS} into the folder, or use Open-i's DICOM files",
                    )
                if reader is None:
                    from encoder.sandbox import Reader

                    reader = Reader()
                view = _header_view(reader, path)
            yield uid, name, path, view or "frontal"
    finally:
        if reader is not None:
            reader.close()


def _header_view(reader: object, path: Path) -> View:
    """Frontal unless the reader refuses the image as lateral (or as no chest radiograph at all)."""
    from encoder.sandbox import Reader

    assert isinstance(reader, Reader)
    try:
        view = reader.read(path).facts.view
    except ReadError:
        return "lateral"
    return "PA" if view == "PA" else "AP" if view == "AP" else "frontal"


def _files(root: Path) -> dict[str, Path]:
    """Image files below a folder by their names in lower case."""
    found: dict[str, Path] = {}
    for parent, folders, files in os.walk(root):
        folders.sort()
        found |= {
            name.lower(): Path(parent, name)
            for name in sorted(files)
            if name.lower().endswith((".png", ".dcm", ".jpg"))
        }
    return found


def _key(name: str) -> tuple[str, str] | None:
    """What Kaggle's, Open-i's and the DICOM files' names of an image share: uid and series."""
    match = _IMAGE.fullmatch(name)
    return (match[1], match[2].lower()) if match else None


def _parse(file: Path, number: int) -> ElementTree.Element:
    try:
        data = file.read_bytes() if file.stat().st_size <= _LARGEST else b""
        if data and not _ENTITY.search(data):
            return ElementTree.fromstring(data)
    except (OSError, ElementTree.ParseError):
        pass
    raise LlavaRadError(f"{_OF}: XML file {number} is damaged, too large, or declares entities")


def _attribute(top: ElementTree.Element, tag: str, name: str) -> str | None:
    part = top.find(tag)
    return None if part is None else part.get(name)
