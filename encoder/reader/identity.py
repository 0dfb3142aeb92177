"""Who and what an image belongs to, by its header: read only where a person asked for outputs that carry it.

Everything else in this project knows an image by the SHA-256 of its bytes. An output that is to find its way into an
archive needs the identifiers of study and patient; they are read here, in the limited process, and nowhere else.
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
    """What ties an image to its study and patient.

    Attributes:
        study_uid: Study Instance UID.
        series_uid: Series Instance UID.
        instance_uid: SOP Instance UID.
        class_uid: SOP Class UID.
        attributes: of patient and study, by keyword; empty where they are not to be known.
    """

    study_uid: str
    series_uid: str
    instance_uid: str
    class_uid: str
    attributes: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Identity:
        """Rebuild from :meth:`to_dict`."""
        return cls(**{one.name: data[one.name] for one in fields(cls)})


def read_identity(source: mmap.mmap | bytes) -> Identity:
    """Read the identifiers of a DICOM file, in this process: call it through :class:`encoder.reader.sandbox.Reader`.

    Raises:
        ReadError: it is no DICOM file, or has no valid unique identifiers.
    """
    import pydicom
    from pydicom.uid import UID

    head = bytes(source[:132])
    if head[128:132] != b"DICM":
        raise ReadError("not_an_image", "the file has no DICOM header to take identifiers from")
    wanted = [*_UIDS.values(), *PATIENT, *STUDY, "SpecificCharacterSet"]
    # header values stand before the pixels; a header of more than this is none of a radiograph's
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
