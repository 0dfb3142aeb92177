"""Nothing of a header but allow-listed facts leaves the reader, for files that are read and refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from encoder.errors import ReadError
from encoder.preprocessing import RECIPES
from encoder.reader.sandbox import Reader
from scripts.phantom.transfer_syntaxes import rewrite
from tests.encoder.dicom_files import code, dataset, sequence, to_bytes

pytestmark = pytest.mark.acceptance(row=18)

FREE_TEXT = [
    "PatientName", "PatientID", "PatientBirthDate", "PatientAddress", "OtherPatientIDs", "PatientComments",
    "EthnicGroup", "Occupation", "AdditionalPatientHistory", "InstitutionName", "InstitutionAddress",
    "ReferringPhysicianName", "PhysiciansOfRecord", "PerformingPhysicianName", "OperatorsName", "StationName",
    "StudyDescription", "SeriesDescription", "StudyID", "AccessionNumber", "ProtocolName",
    "RequestedProcedureDescription", "ImageComments", "ManufacturerModelName", "Manufacturer",
    "DeviceSerialNumber", "SoftwareVersions", "PatientSex", "StudyDate", "StudyTime", "ContentDate",
    "RequestingPhysician", "AdmissionID", "IssuerOfPatientID", "DerivationDescription",
]  # fmt: skip
# attributes that the reader does use: a canary there must turn into a fixed word
USED = ["BodyPartExamined", "ViewPosition", "Modality", "PresentationIntentType", "VOILUTFunction"]


def canaries() -> tuple[Dataset, list[str]]:
    """A readable chest with a canary in every free text field, and the canaries."""
    source, words = dataset(), []
    with pydicom.config.disable_value_validation():
        for number, keyword in enumerate(FREE_TEXT):
            words.append(f"CANARY{number:02d}")
            setattr(source, keyword, words[-1])
        private = source.private_block(0x0011, "CANARY90 MAKER", create=True)
        private.add_new(1, "LO", "CANARY91")
        source.ViewCodeSequence = sequence(code("CANARY92", "CANARY93", "CANARY94"))
        source.WindowCenter, source.WindowWidth, source.WindowCenterWidthExplanation = "100", "50", "CANARY95"
        source.SOPInstanceUID = "1.2.826.0.1.3680043.9999.1234567890123"
        source.preamble = b"CANARY96".ljust(128, b"\0")
        words += ["CANARY90", "CANARY91", "CANARY92", "CANARY93", "CANARY94", "CANARY95", "CANARY96", "1234567890123"]
    return source, words


def everything(reader: Reader, data: bytes) -> str:
    """All that comes out of the reader for one file, as text."""
    try:
        image = reader.read(data, force=True)
        prepared = reader.prepare(data, RECIPES["rad-dino"], force=True)
    except ReadError as error:
        return (
            f"{error!r} {error} {error.reason} {error.hint} {error.__dict__} {error.__cause__!r} {error.__context__!r}"
        )
    windows = [(w.function, w.label, w.center, w.width) for w in image.windows]
    return json.dumps([image.facts.to_dict(), image.warnings, windows, prepared.facts.to_dict(), prepared.warnings])


def test_40_canaries_stay_inside(reader: Reader) -> None:
    source, words = canaries()
    assert len(words) >= 40
    files = [to_bytes(source), rewrite(source, "jpeg-ls"), to_bytes(source)[:-200]]
    for keyword in USED:
        with pydicom.config.disable_value_validation():
            source, _ = canaries()
            setattr(source, keyword, "CANARY99")
            files.append(to_bytes(source))
    for keyword, value in (("Rows", 0), ("PhotometricInterpretation", "CANARY99"), ("PixelData", b"")):
        source, _ = canaries()
        setattr(source, keyword, value)
        files.append(to_bytes(source))
    for data in files:
        text = everything(reader, data)
        assert "CANARY" not in text and "1234567890123" not in text, text


@pytest.mark.parametrize(
    "odd", [{"PatientOrientation": ["CANARY99", "F"]}, {"NumberOfFrames": "CANARY"}, {"RescaleSlope": "CANARY"}]
)
def test_odd_values_of_used_attributes_stay_inside(odd: dict[str, object], reader: Reader) -> None:
    with pydicom.config.disable_value_validation():
        source = dataset()
        for keyword, value in odd.items():
            element = source.get_item(keyword) if keyword in source else None
            del element
            from pydicom.datadict import dictionary_VR, tag_for_keyword
            from pydicom.dataelem import RawDataElement
            from pydicom.tag import Tag

            tag = Tag(tag_for_keyword(keyword))  # type: ignore[arg-type]
            raw = ("\\".join(value) if isinstance(value, list) else str(value)).encode()
            raw += b" " * (len(raw) % 2)
            source._dict[tag] = RawDataElement(tag, dictionary_VR(tag), len(raw), raw, 0, False, True)
        assert "CANARY" not in everything(reader, to_bytes(source))


def test_nothing_is_printed(tmp_path: Path) -> None:
    """stdout and stderr of a whole process, its child's included, and the file's name."""
    source, _ = canaries()
    path = tmp_path / "CANARY97.dcm"
    path.write_bytes(to_bytes(source))
    (tmp_path / "CANARY98.dcm").write_bytes(to_bytes(source)[:-300])
    code_text = (
        "import sys; from pathlib import Path\n"
        "from encoder.reader.sandbox import Reader; from encoder.errors import ReadError\n"
        "r = Reader()\n"
        "for p in sys.argv[1:]:\n"
        "    try: x = r.read(Path(p)); print(x.facts, x.warnings)\n"
        "    except ReadError as e: print(repr(e), e)\n"
    )
    missing = str(tmp_path / "CANARY-missing.dcm")
    command = [sys.executable, "-c", code_text, str(path), str(tmp_path / "CANARY98.dcm"), missing]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "CANARY" not in done.stdout + done.stderr and done.stderr == ""
    assert np.char.count(done.stdout, "\n") == 3
