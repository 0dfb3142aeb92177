"""Identifiers as headers really have them, in structured reports and FHIR bundles.

Right values: what pydicom and highdicom read back, fhir.resources, and the value representations of PS3.5.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.valuerep import PersonName

from encoder.errors import ReadError
from encoder.reader.identity import Identity, is_valid, read_identity
from encoder.reader.sandbox import Reader
from llava_rad.outputs.document import Document
from llava_rad.outputs.fhir import to_fhir
from llava_rad.outputs.sr import to_sr
from scripts.phantom.transfer_syntaxes import rewrite
from tests.encoder.dicom_files import dataset, to_bytes
from tests.llava_rad.outputs.reports import report

AT = datetime(2026, 11, 26, 13, 5, 7, tzinfo=UTC)
GOOD = {
    "PatientID": "X1", "PatientName": "Doe^Jane", "PatientBirthDate": "19700101", "PatientSex": "F",
    "StudyDate": "20200102", "StudyTime": "101112.5", "AccessionNumber": "ACC1", "StudyID": "S1",
}  # fmt: skip


def file_with(charset: str = "ISO_IR 192", **values: str | bytes | None) -> bytes:
    """A DICOM file with these raw values of the identifiers; the others are those of ``GOOD``."""
    source = dataset(
        StudyInstanceUID="1.2.826.0.2", SeriesInstanceUID="1.2.826.0.3", SOPInstanceUID="1.2.826.0.1",
        SpecificCharacterSet=charset,
    )  # fmt: skip
    for keyword, value in {**GOOD, **values}.items():
        if value is None:
            continue
        data = value if isinstance(value, bytes) else value.encode()
        data += b" " * (len(data) % 2)
        number = tag_for_keyword(keyword)
        assert number is not None
        tag = Tag(number)
        source._dict[tag] = RawDataElement(tag, dictionary_VR(tag), len(data), data, 0, False, True)
    return to_bytes(source)


def resource(identity: Identity, kind: str) -> dict[str, Any]:
    bundle = pytest.importorskip("fhir.resources.R4B.bundle", reason="fhir.resources is not installed")
    found = to_fhir(Document.of(report(), AT, identity=identity))
    bundle.Bundle.model_validate(found)
    return next(one["resource"] for one in found["entry"] if one["resource"]["resourceType"] == kind)


BAD: list[tuple[str, str | bytes]] = [
    ("AccessionNumber", "ACC1\\ACC2"), ("StudyID", "1\\2"), ("PatientName", "Doe^Jane\\Roe^Ann"),  # I01
    ("PatientBirthDate", "00000000"), ("PatientBirthDate", "01011970"), ("PatientBirthDate", "1970-01-01"),  # I02
    ("PatientBirthDate", "19700230"), ("PatientBirthDate", "1970.01.01"), ("PatientBirthDate", "197001"),
    ("PatientBirthDate", "00010101"), ("PatientBirthDate", "1970-W01"),
    ("PatientBirthDate", "19700101120000"), ("PatientBirthDate", "Jan 1970"), ("PatientBirthDate", "19701301"),
    ("PatientBirthDate", "19700101\\19710101"), ("PatientBirthDate", "１９７００１０１"),
    ("StudyDate", "2020-01-02"), ("StudyDate", "20210229"), ("StudyTime", "10:11:12"), ("StudyTime", "250000"),
    ("StudyTime", "106000"), ("PatientSex", "male"), ("PatientSex", "FEMALE"), ("PatientSex", "W"),
    ("PatientSex", "M\\F"), ("PatientSex", "f"), ("PatientID", "A" * 65), ("PatientID", "A\x07B"),
    ("PatientID", "A\u202eB"), ("AccessionNumber", "A" * 17), ("PatientName", "Doe^Jane\nRoe"),
    ("PatientName", "A" * 65), ("PatientName", "a^b^c^d^e^f"), ("PatientName", "a=b=c=d"), ("PatientName", "^^"),
    ("IssuerOfPatientID", "x\0y"), ("PatientName", b"\xff\xfeDoe"),
]  # fmt: skip


@pytest.mark.parametrize(("keyword", "value"), BAD)
def test_a_malformed_value_is_left_out_and_named(keyword: str, value: str | bytes) -> None:
    found = read_identity(file_with(**{keyword: value}))
    assert keyword not in found.attributes and found.left_out == (keyword,)
    assert found.attributes == {name: text for name, text in GOOD.items() if name != keyword}
    assert found.warning is not None and "\n" not in found.warning
    assert len(value) < 3 or str(value) not in found.warning


def test_all_malformed_values_together_become_valid_documents() -> None:
    bad = dict(reversed(BAD)) | {"PatientID": "X1"}
    found = read_identity(file_with(**bad))
    assert found.attributes.keys() == {"PatientID"}
    written = to_sr(Document.of(report(), AT, identity=found))
    for content in written:
        read = highdicom.sr.srread(io.BytesIO(content))
        assert (read.PatientID, read.PatientBirthDate, read.PatientSex, read.StudyDate) == ("X1", "", "", "")
        assert [str(value) for value in bad.values() if str(value).encode() in content and len(value) > 3] == []
    comments = [item.TextValue for item in read_comments(written.report)]
    assert found.warning in comments
    assert resource(found, "Patient").keys() == {"resourceType", "id", "identifier"}


def read_comments(content: bytes) -> list[pydicom.Dataset]:
    items = pydicom.dcmread(io.BytesIO(content)).ContentSequence
    return [item for item in items if item.ConceptNameCodeSequence[0].CodeValue == "121106"]


def test_values_stated_twice_are_one_value() -> None:
    found = read_identity(file_with(PatientID="P1\\P1", AccessionNumber="A\\A \\"))
    assert (found.attributes["PatientID"], found.attributes["AccessionNumber"]) == ("P1", "A") and not found.left_out


def test_several_patient_ids_are_refused() -> None:
    with Reader() as reader, pytest.raises(ReadError, match="several patient IDs") as caught:
        reader.identity(file_with(PatientID="P1\\P2"))
    assert caught.value.reason == "no_identity" and "P1" not in str(caught.value)


def test_missing_and_empty_values_are_not_left_out() -> None:
    found = read_identity(file_with(PatientID="", PatientSex=None, StudyDate="  "))
    assert not {"PatientID", "PatientSex", "StudyDate"} & {*found.attributes, *found.left_out}
    assert found.warning is None


@pytest.mark.parametrize(
    ("charset", "raw"),
    [
        ("ISO_IR 192", "Yamada^Tarou=山田^太郎=やまだ^たろう".encode()),
        ("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"),
    ],
)
def test_japanese_names_have_three_forms(charset: str, raw: bytes) -> None:  # w5; PS3.5, H.3.1
    found = read_identity(file_with(charset, PatientName=raw))
    patient = resource(found, "Patient")
    names = [(name["extension"][0]["valueCode"], name["family"], name["given"]) for name in patient["name"]]
    assert names == [
        ("ABC", "Yamada", ["Tarou"]), ("IDE", "山田", ["太郎"]), ("SYL", "やまだ", ["たろう"]),
    ]  # fmt: skip
    assert resource(found, "DiagnosticReport")["subject"]["display"] == "Yamada Tarou"
    for content in to_sr(Document.of(report(), AT, identity=found)):
        name = highdicom.sr.srread(io.BytesIO(content)).PatientName
        assert (name.alphabetic, name.ideographic, name.phonetic) == ("Yamada^Tarou", "山田^太郎", "やまだ^たろう")


@pytest.mark.parametrize(
    "raw",
    [
        "Adams^John Robert Quincy^^Rev.^B.A. M.Div.", "Morrison-Jones^Susan^^^Ph.D., Chief Executive Officer",
        "Hong^Gildong=洪^吉洞=홍^길동", "=王^小东", "Müller^Jörg", "DOE JANE", "Buc^Jérôme^M.", "^Jane",
    ],
)  # fmt: skip
def test_names_have_the_components_that_pydicom_reads(raw: str) -> None:  # PS3.5, 6.2.1.1
    oracle = PersonName(raw)
    first, *_ = names = resource(read_identity(file_with(PatientName=raw)), "Patient")["name"]
    assert len(names) == len([group for group in (oracle.alphabetic, oracle.ideographic, oracle.phonetic) if group])
    if oracle.alphabetic:
        assert first.get("family", "") == oracle.family_name
        assert first.get("given", []) == [one for one in (oracle.given_name, oracle.middle_name) if one]
        assert first.get("prefix", []) == [one for one in (oracle.name_prefix,) if one]
        assert first.get("suffix", []) == [one for one in (oracle.name_suffix,) if one]


@pytest.mark.parametrize(("sex", "gender"), [("M", "male"), ("F", "female"), ("O", "other")])
def test_sex_and_birth_date_in_fhir(sex: str, gender: str) -> None:
    patient = resource(read_identity(file_with(PatientSex=sex, PatientBirthDate="20240229")), "Patient")
    assert (patient["gender"], patient["birthDate"]) == (gender, "2024-02-29")


def test_identities_kept_by_earlier_versions_are_checked() -> None:
    uids = {"study_uid": "1.2", "series_uid": "1.3", "instance_uid": "1.4", "class_uid": "1.5"}
    found = Identity.from_dict({**uids, "attributes": {"PatientID": "P", "PatientBirthDate": "00000000"}})
    assert (found.attributes, found.left_out) == ({"PatientID": "P"}, ("PatientBirthDate",))
    assert Identity.from_dict(found.to_dict()) == found


@pytest.mark.parametrize("value", ["10", "1011", "101112", "101112.123456", "235960"])
def test_times_of_day(value: str) -> None:
    assert is_valid("StudyTime", value)


@pytest.mark.parametrize(
    ("syntax", "private"),
    [("deflated", 0), ("explicit-le", 5 << 20), ("implicit-le", 5 << 20), ("explicit-be", 5 << 20)],
)
def test_identifiers_of_large_files(syntax: str, private: int) -> None:
    """Noise of 8 MB stays large when it is deflated; 5 MiB of a private element come before the patient."""
    noise = np.random.default_rng(0).integers(0, 1 << 12, (2048, 2048))
    source = dataset(noise, StudyInstanceUID="1.2.826.0.2", SeriesInstanceUID="1.2.826.0.3", PatientID="X1")
    source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1"
    if private:
        source.add_new(0x00090010, "LO", "SOMEBODY")
        source.add_new(0x00091001, "OB", bytes(private))
    data = rewrite(source, syntax)
    assert len(data) > 5 << 20
    with Reader() as reader:
        found = reader.identity(data)
    oracle = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    assert (found.study_uid, found.instance_uid) == (oracle.StudyInstanceUID, oracle.SOPInstanceUID)
    assert found.attributes == {"PatientID": oracle.PatientID}


def test_a_damaged_or_cut_deflated_file_has_no_identifiers() -> None:
    data = rewrite(pydicom.dcmread(io.BytesIO(file_with())), "deflated")
    for broken in (data[:-400], data[:400] + bytes(300) + data[700:]):
        with pytest.raises(ReadError):
            read_identity(broken)


@pytest.mark.parametrize("charset", ["", "ISO_IR 6", "ISO_IR 100", "ISO_IR 192"])
def test_names_in_utf_8_where_it_is_not_stated(charset: str) -> None:
    found = read_identity(file_with(charset, PatientName="Łukasiewicz^Zoë", StudyDescription="Röntgen"))
    assert (found.attributes["PatientName"], found.attributes["StudyDescription"]) == ("Łukasiewicz^Zoë", "Röntgen")
    for content in to_sr(Document.of(report(), AT, identity=found)):
        assert str(highdicom.sr.srread(io.BytesIO(content)).PatientName) == "Łukasiewicz^Zoë"
    if charset != "ISO_IR 192":
        found = read_identity(file_with(charset, PatientName="Müller^Jörg".encode("latin-1")))
        assert found.attributes["PatientName"] == "Müller^Jörg"


CHARSETS = ["chrArab", "chrFren", "chrGerm", "chrGreek", "chrH31", "chrH32", "chrHbrw", "chrI2", "chrRuss", "chrX1"]


@pytest.mark.parametrize("name", CHARSETS)
def test_names_in_the_character_sets_of_the_standard(name: str) -> None:  # PS3.5, annexes H to K
    source = pydicom.dcmread(Path(pydicom.__file__).parent / "data" / "charset_files" / f"{name}.dcm")
    raw = source.get_item("PatientName").value
    charset = source.get("SpecificCharacterSet", "")
    charset = charset if isinstance(charset, str) else "\\".join(charset)
    found = read_identity(file_with(charset, PatientName=raw))
    groups = [source.PatientName.alphabetic, source.PatientName.ideographic, source.PatientName.phonetic]
    names = resource(found, "Patient")["name"]
    assert [one["text"] for one in names] == [
        " ".join(part.strip() for part in group.split("^") if part.strip()) for group in groups if group
    ]
    (content, _) = to_sr(Document.of(report(), AT, identity=found))
    assert highdicom.sr.srread(io.BytesIO(content)).PatientName == source.PatientName
