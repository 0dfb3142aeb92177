"""Identifiers of patient and study in a DICOM header, for documents that are stored in an archive.

This is the only place that reads them, in the sandboxed process and on request. All other code identifies an image by
the SHA-256 of its bytes.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from encoder.errors import ReadError
from encoder.reader.header import LATIN_1, MAX_ELEMENTS, Header, data_set_of, tags

if TYPE_CHECKING:
    import mmap

    from pydicom.dataset import Dataset

PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "IssuerOfPatientID")
STUDY = ("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyDescription")
_UIDS = {
    "study_uid": "StudyInstanceUID", "series_uid": "SeriesInstanceUID", "instance_uid": "SOPInstanceUID",
    "class_uid": "SOPClassUID",
}  # fmt: skip
_PIXEL_GROUP = 0x7FE00000
# PS3.5, table 6.2-1: characters of a value, and of a component group of a person name
_LENGTH: Final = {
    "PatientID": 64, "IssuerOfPatientID": 64, "StudyID": 16, "AccessionNumber": 16, "StudyDescription": 64,
}  # fmt: skip
_GROUP_LENGTH, _GROUPS, _COMPONENTS = 64, 3, 5
_TIME: Final = re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?", re.ASCII)
_FIRST_YEAR: Final = 1800
_NOBODY: Final = re.compile(
    r"|(.)\1*|ANON\w*|DEID\w*|UNKNOWN|UNK|NONE|NULL|NIL|NA|TEST|TESTPATIENT|PATIENT|PATIENTID|DUMMY|REMOVED|DELETED"
)
_UNREADABLE: Final = "\0"
_TITLES: Final = {
    "PatientID": "patient ID", "PatientName": "patient's name", "PatientBirthDate": "date of birth",
    "PatientSex": "patient's sex", "IssuerOfPatientID": "issuer of the patient ID", "StudyID": "study ID",
    "StudyDate": "study date", "StudyTime": "study time", "AccessionNumber": "accession number",
    "ReferringPhysicianName": "referring physician", "StudyDescription": "study description",
}  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """Identifiers that link a document to the study and patient of an image.

    Attributes:
        study_uid: Study Instance UID.
        series_uid: Series Instance UID.
        instance_uid: SOP Instance UID.
        class_uid: SOP Class UID.
        attributes: valid values of the attributes in ``PATIENT`` and ``STUDY`` by keyword; empty if not disclosed.
        left_out: keywords of stated values that are not in ``attributes``: malformed, or several where one belongs.
    """

    study_uid: str
    series_uid: str
    instance_uid: str
    class_uid: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def warning(self) -> str | None:
        """One line that names the attributes that were left out, without their values."""
        if not self.left_out:
            return None
        names = ", ".join(_TITLES[keyword] for keyword in self.left_out)
        return f"identifiers that are malformed or have several values were left out: {names}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-compatible dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Identity:
        """Create an instance from the result of :meth:`to_dict`; values that DICOM does not allow are left out."""
        stated: dict[str, str] = data["attributes"]
        valid = {keyword: value for keyword, value in stated.items() if keyword in _TITLES and is_valid(keyword, value)}
        left_out = [keyword for keyword in _TITLES if keyword in {*stated, *data.get("left_out", ())} - {*valid}]
        return cls(**{name: data[name] for name in _UIDS}, attributes=valid, left_out=tuple(left_out))


def is_valid(keyword: str, value: str) -> bool:
    """Tell whether a value is one that its attribute may have, by its value representation (PS3.5, 6.2).

    Dates before 1800 are placeholders, and not valid either.
    """
    if not value or value != value.strip() or "\\" in value or "\ufffd" in value:
        return False
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp") for letter in value):
        return False
    if keyword.endswith("Date"):
        try:
            return len(value) == 8 and value.isdecimal() and date.fromisoformat(value).year >= _FIRST_YEAR
        except ValueError:
            return False
    if keyword.endswith("Time"):
        return _TIME.fullmatch(value) is not None
    if keyword.endswith("Name"):
        groups = value.split("=")
        fits = all(len(group) <= _GROUP_LENGTH and group.count("^") < _COMPONENTS for group in groups)
        return fits and len(groups) <= _GROUPS and value.strip("^= ") != ""
    return value in ("M", "F", "O") if keyword == "PatientSex" else len(value) <= _LENGTH[keyword]


def names_nobody(patient_id: str) -> bool:
    """Tell whether a patient ID stands for nobody, or for everybody of a data set, such as "ANONYMOUS" or "0"."""
    return _NOBODY.fullmatch(re.sub(r"[\W_]", "", patient_id).upper()) is not None


def read_identity(source: mmap.mmap | bytes) -> Identity:
    """Read the identifiers of a DICOM file in this process; use :meth:`encoder.reader.sandbox.Reader.identity` instead.

    Raises:
        ReadError: if it is not a DICOM file, has no valid unique identifiers, or names several patient IDs: a document
            for one of them would be a guess between two patients.
    """
    from pydicom.filereader import read_dataset
    from pydicom.uid import UID

    head = bytes(source[:132])
    if head[128:132] != b"DICM":
        raise ReadError("not_an_image", "the file has no DICOM header to take identifiers from")
    _, stream, syntax = data_set_of(source)
    count = itertools.count(1)
    header = read_dataset(
        stream, syntax.is_implicit_VR, syntax.is_little_endian,
        stop_when=lambda tag, vr, length: tag >= _PIXEL_GROUP or next(count) > MAX_ELEMENTS,
        specific_tags=tags(*_UIDS.values(), *PATIENT, *STUDY, "SpecificCharacterSet"),
    )  # fmt: skip
    uids = {name: str(header.get(keyword, "")).strip() for name, keyword in _UIDS.items()}
    if not all(UID(value).is_valid for value in uids.values()):
        raise ReadError("no_identity", "the file has no valid unique identifiers of study, series and image")
    latin = Header(header).codec in LATIN_1
    values = {keyword: _values(header, keyword, latin) for keyword in (*PATIENT, *STUDY)}
    if len(values["PatientID"]) > 1:
        raise ReadError(
            "no_identity", "the file names several patient IDs: a document for one of them would be a guess"
        )
    single = {keyword: found[0] for keyword, found in values.items() if len(found) == 1}
    several = [keyword for keyword, found in values.items() if len(found) > 1]
    return Identity.from_dict({**uids, "attributes": single, "left_out": several})


def _values(header: Dataset, keyword: str, latin: bool) -> list[str]:
    """Return the different values of an attribute; ``_UNREADABLE`` stands for one that is no text.

    UTF-8 in Latin-1 (``latin``), or without a stated set, is read as such: see :func:`encoder.reader.header.decoded`.
    """
    from pydicom.multival import MultiValue
    from pydicom.valuerep import PersonName

    try:
        value = header.get(keyword)
    except (ValueError, LookupError, TypeError, AttributeError, NotImplementedError, OverflowError):
        return [_UNREADABLE]
    parts = list(value) if isinstance(value, MultiValue | list) else [] if value is None else [value]
    texts = [str(part).strip(" \0") if isinstance(part, str | PersonName) else _UNREADABLE for part in parts]
    if latin:
        texts = [_from_utf_8(text) for text in texts]
    return list(dict.fromkeys(text for text in texts if text))


def _from_utf_8(text: str) -> str:
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text
