"""Identifiers of patient and study in a DICOM header, for documents that are stored in an archive.

This is the only place that reads them, in the sandboxed process and on request. All other code identifies an image by
the SHA-256 of its bytes.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from encoder.errors import ReadError

if TYPE_CHECKING:
    import mmap

PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "IssuerOfPatientID")
STUDY = ("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName")
_UIDS = {
    "study_uid": "StudyInstanceUID", "series_uid": "SeriesInstanceUID", "instance_uid": "SOPInstanceUID",
    "class_uid": "SOPClassUID",
}  # fmt: skip
_LONGEST = 256
_LARGEST_HEADER = 4 << 20


@dataclass(frozen=True)
class Identity:
    """Identifiers that link a document to the study and patient of an image.

    Attributes:
        study_uid: Study Instance UID.
        series_uid: Series Instance UID.
        instance_uid: SOP Instance UID.
        class_uid: SOP Class UID.
        attributes: values of the attributes in ``PATIENT`` and ``STUDY`` by keyword; empty if not to be disclosed.
    """

    study_uid: str
    series_uid: str
    instance_uid: str
    class_uid: str
    attributes: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-compatible dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Identity:
        """Create an instance from the result of :meth:`to_dict`."""
        return cls(**{one.name: data[one.name] for one in fields(cls)})


def read_identity(source: mmap.mmap | bytes) -> Identity:
    """Read the identifiers of a DICOM file in this process; use :meth:`encoder.reader.sandbox.Reader.identity` instead.

    Raises:
        ReadError: if it is not a DICOM file, or has no valid unique identifiers.
    """
    import pydicom
    from pydicom.uid import UID

    head = bytes(source[:132])
    if head[128:132] != b"DICM":
        raise ReadError("not_an_image", "the file has no DICOM header to take identifiers from")
    wanted = [*_UIDS.values(), *PATIENT, *STUDY, "SpecificCharacterSet"]
    # the header precedes the pixels; no radiograph has one that is larger than this
    content = io.BytesIO(bytes(source[: _LARGEST_HEADER if len(source) > _LARGEST_HEADER else len(source)]))
    header = pydicom.dcmread(content, stop_before_pixels=True, specific_tags=wanted)
    uids = {name: str(header.get(keyword, "")).strip() for name, keyword in _UIDS.items()}
    if not all(UID(value).is_valid for value in uids.values()):
        raise ReadError("no_identity", "the file has no valid unique identifiers of study, series and image")
    attributes = {}
    for keyword in (*PATIENT, *STUDY):
        text = "".join(letter for letter in str(header.get(keyword, "") or "") if letter.isprintable()).strip()
        if text:
            attributes[keyword] = text[:_LONGEST]
    return Identity(**uids, attributes=attributes)
