"""DICOM structured reports: an Enhanced SR with the findings, and a TID 1500 report with the findings they name.

A draft is PARTIAL, UNVERIFIED and PRELIMINARY; a signed report COMPLETE, VERIFIED and FINAL, with its reviewer as
verifying observer. Both name the model as device observer, and carry the notice.
"""

from __future__ import annotations

import io
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from encoder.errors import LlavaRadError
from llava_rad.outputs.document import SCHEME, Document, uid_of
from llava_rad.outputs.formats import DocumentWriter
from llava_rad.outputs.report import NOTICE
from llava_rad.outputs.sr_measurements import measurement_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom.dataset import Dataset

    from encoder.reader.identity import Identity
    from llava_rad.outputs.document import Region

MANUFACTURER: Final = "LLaVA-Rad"
SERIES_NUMBER: Final = 9701
_OPTIONAL: Final = ("IssuerOfPatientID", "StudyDescription")
"""Attributes that are left out where the image has no value; the others are there without a value (type 2)."""
_OF_FRAMES: Final = ("1.2.840.10008.5.1.4.1.1.7.", "1.2.840.10008.5.1.4.1.1.12.")
"""Classes of several frames: secondary capture, angiography and fluoroscopy. Others are referred to without a frame."""


class StructuredReports(NamedTuple):
    """The two objects of a report as DICOM files."""

    report: bytes
    labels: bytes


def to_sr(document: Document) -> StructuredReports:
    """Write both objects; equal documents give equal bytes.

    Raises:
        LlavaRadError: if highdicom is not installed.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise LlavaRadError("structured reports need highdicom", hint="pip install 'llava-rad[sr]'") from None
    return StructuredReports(_file(_report(document), document), _file(_labels(document), document))


class StructuredReportWriter(DocumentWriter):
    """Files of the format ``sr``."""

    def files(self, document: Document) -> StructuredReports:
        return to_sr(document)


def _report(document: Document) -> Dataset:
    from highdicom.sr import (
        CodeContentItem,
        CodedConcept,
        ContainerContentItem,
        EnhancedSR,
        PnameContentItem,
        TextContentItem,
        UIDRefContentItem,
    )

    def dcm(value: str, meaning: str) -> Any:
        return CodedConcept(value, "DCM", meaning)

    report = document.report
    root = ContainerContentItem(CodedConcept("18748-4", "LN", "Diagnostic imaging report"), template_id="2000")
    context: list[Any] = [
        CodeContentItem(
            dcm("121049", "Language of Content Item and Descendants"),
            CodedConcept("en", "RFC5646", "English"),
            "HAS CONCEPT MOD",
        ),
        CodeContentItem(dcm("121005", "Observer Type"), dcm("121007", "Device"), "HAS OBS CONTEXT"),
        UIDRefContentItem(
            dcm("121012", "Device Observer UID"), uid_of("model", report.model.sha256), "HAS OBS CONTEXT"
        ),
        TextContentItem(dcm("121013", "Device Observer Name"), document.model_name[:64], "HAS OBS CONTEXT"),
        TextContentItem(dcm("121014", "Device Observer Manufacturer"), MANUFACTURER, "HAS OBS CONTEXT"),
        TextContentItem(dcm("121015", "Device Observer Model Name"), document.model_name[:64], "HAS OBS CONTEXT"),
        TextContentItem(dcm("121016", "Device Observer Serial Number"), report.model.sha256, "HAS OBS CONTEXT"),
    ]
    if document.signature is not None:
        context += [
            CodeContentItem(dcm("121005", "Observer Type"), dcm("121006", "Person"), "HAS OBS CONTEXT"),
            PnameContentItem(dcm("121008", "Person Observer Name"), _person(document), "HAS OBS CONTEXT"),
        ]
    finding = dcm("121071", "Finding")
    above = {
        "indication": (dcm("121109", "Indications for Procedure"), dcm("121062", "Request")),
        "technique": (dcm("121064", "Current Procedure Descriptions"), dcm("121065", "Procedure Description")),
        "comparison": (dcm("121068", "Previous Findings"), dcm("121069", "Previous Finding")),
    }
    sections = [
        *((*above[name], (text,)) for name, text in document.context.items()),
        (dcm("121070", "Findings"), finding, document.sentences),
        (dcm("121072", "Impressions"), dcm("121073", "Impression"), document.impression),
    ]
    containers = []
    for title, concept, sentences in sections:
        section = ContainerContentItem(title, relationship_type="CONTAINS")
        section.ContentSequence = []
        for number, sentence in enumerate(sentences):
            item = TextContentItem(concept, sentence, "CONTAINS")
            if concept not in (concept for _, concept in above.values()):
                item.ContentSequence = _sources(document, document.regions(number) if concept is finding else ())
            section.ContentSequence.append(item)
        if sentences:
            containers.append(section)
    measured = [f"Measurement: {one.line}" for one in document.measurements]
    notes = [NOTICE, *document.warnings, *measured, f"Input: SHA-256 {report.input.sha256}"]
    comments = [TextContentItem(dcm("121106", "Comment"), note, "CONTAINS") for note in notes]
    root.ContentSequence = [*context, *containers, *comments]
    made: Dataset = EnhancedSR(content=root, **_common(document, "report", 1))
    return made


def _sources(document: Document, regions: Sequence[Region]) -> list[Any]:
    """Build the items that a sentence is inferred from: its regions of the frontal image, and all images (TID 320)."""
    import numpy as np
    from highdicom.sr import CodedConcept, ImageContentItem, ScoordContentItem

    def source(image: Identity, relationship: str) -> ImageContentItem:
        return ImageContentItem(
            CodedConcept("121112", "DCM", "Source of Measurement"), image.class_uid, image.instance_uid,
            referenced_frame_numbers=_frame(document, image), relationship_type=relationship,
        )  # fmt: skip

    items: list[Any] = []
    for region in regions:
        item = ScoordContentItem(
            CodedConcept("111030", "DCM", "Image Region"), "POLYLINE", np.asarray(region, np.float32),
            relationship_type="INFERRED FROM",
        )  # fmt: skip
        item.ContentSequence = [source(document.identity, "SELECTED FROM")]
        items.append(item)
    return items + [source(image.identity, "INFERRED FROM") for image in document.images]


def _frame(document: Document, image: Identity) -> list[int] | None:
    """Return the number of the frontal image's frame that was read; None for classes of single frames."""
    frontal = image.instance_uid == document.identity.instance_uid
    return [document.report.input.facts.frame] if frontal and image.class_uid.startswith(_OF_FRAMES) else None


def _region_groups(document: Document) -> list[Any]:
    """Build a group with the region of each box (TID 1410), named by the sentence."""
    import numpy as np
    from highdicom.sr import (
        ImageRegion,
        PlanarROIMeasurementsAndQualitativeEvaluations,
        SourceImageForRegion,
        TrackingIdentifier,
    )

    identity, groups = document.identity, []
    for number, sentence in enumerate(document.sentences):
        for at, region in enumerate(document.regions(number), 1):
            source = SourceImageForRegion(identity.class_uid, identity.instance_uid, _frame(document, identity))
            named = TrackingIdentifier(uid=document.uid(f"region {number} {at}"), identifier=sentence)
            groups.append(
                PlanarROIMeasurementsAndQualitativeEvaluations(
                    named,
                    referenced_region=ImageRegion("POLYLINE", np.asarray(region, np.float32), source),
                )
            )
    return groups


def _labels(document: Document) -> Dataset:
    from highdicom.sr import (
        CodedConcept,
        Comprehensive3DSR,
        DeviceObserverIdentifyingAttributes,
        MeasurementReport,
        MeasurementsAndQualitativeEvaluations,
        ObservationContext,
        ObserverContext,
        PersonObserverIdentifyingAttributes,
        QualitativeEvaluation,
        SourceImageForMeasurementGroup,
        TrackingIdentifier,
    )
    from pydicom.sr.codedict import codes

    said = {
        "positive": CodedConcept("52101004", "SCT", "Present"),
        "negative": CodedConcept("2667000", "SCT", "Absent"),
        "uncertain": CodedConcept("373068000", "SCT", "Undetermined"),
    }
    report = document.report
    device = ObserverContext(
        codes.DCM.Device,
        DeviceObserverIdentifyingAttributes(
            uid=uid_of("model", report.model.sha256), name=document.model_name[:64], manufacturer_name=MANUFACTURER,
            model_name=document.model_name[:64], serial_number=report.model.sha256,
        ),
    )  # fmt: skip
    person = None
    if document.signature is not None:
        person = ObserverContext(codes.DCM.Person, PersonObserverIdentifyingAttributes(_person(document)))
    groups = []
    for name, kind, findings in (
        (
            "CheXpert findings by the labeler 'rules'",
            "tracking",
            document.findings.keys() - document.corrections.keys(),
        ),
        ("CheXpert findings corrected by the reviewer", "corrected", document.corrections.keys()),
    ):
        evaluations = [
            QualitativeEvaluation(CodedConcept(finding.upper().replace(" ", "_")[:16], SCHEME, finding), said[value])
            for finding, value in document.findings.items()
            if finding in findings
        ]
        if evaluations or kind == "tracking":
            group = MeasurementsAndQualitativeEvaluations(
                TrackingIdentifier(uid=document.uid(kind), identifier=name),
                qualitative_evaluations=evaluations,
                source_images=[
                    SourceImageForMeasurementGroup(image.identity.class_uid, image.identity.instance_uid)
                    for image in document.images
                ],
            )
            groups.append(group)
    content = MeasurementReport(
        ObservationContext(observer_person_context=person, observer_device_context=device),
        procedure_reported=CodedConcept("399208008", "SCT", "Plain chest X-ray"),
        imaging_measurements=[*groups, *_region_groups(document), *measurement_groups(document)],
    )
    made: Dataset = Comprehensive3DSR(content=content[0], **_common(document, "labels", 2))
    _declare_scheme(made)
    return made


def _declare_scheme(labels: Dataset) -> None:
    """Add the Coding Scheme Identification Sequence for ``99LLAVARAD`` if a code is of it (PS3.3, C.12.1)."""
    from pydicom.dataset import Dataset

    if not any(element.keyword == "CodingSchemeDesignator" and element.value == SCHEME for element in labels.iterall()):
        return
    scheme = Dataset()
    scheme.CodingSchemeDesignator = SCHEME
    scheme.CodingSchemeName = "CheXpert findings and measurements of LLaVA-Rad"
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    labels.CodingSchemeIdentificationSequence = [scheme]


def _common(document: Document, kind: str, number: int) -> dict[str, Any]:
    signature = document.signature
    images = [image.identity for image in document.images]
    if kind == "labels":
        images += [one.image for one in document.measurements]
    return {
        "evidence": [_evidence(document, image) for image in {image.instance_uid: image for image in images}.values()],
        "previous_versions": _predecessors(document, kind),
        "series_instance_uid": document.uid("series"),
        "series_number": SERIES_NUMBER,
        "sop_instance_uid": document.uid(kind),
        "instance_number": number,
        "manufacturer": MANUFACTURER,
        "is_complete": signature is not None,
        "is_final": signature is not None,
        "is_verified": signature is not None,
        "verifying_observer_name": _person(document) if signature else None,
        "verifying_organization": "not stated" if signature else None,
    }


def _person(document: Document) -> str:
    """Return the reviewer as a DICOM person name; a trailing caret marks a name of one component."""
    assert document.signature is not None
    name = "".join(letter for letter in document.signature.reviewer if letter.isprintable() and letter not in "\\=")[
        :64
    ]
    return name if "^" in name else f"{name}^"


def _predecessors(document: Document, kind: str) -> list[Dataset] | None:
    """Build the reference to the object of the version that this one replaces."""
    from pydicom.dataset import Dataset
    from pydicom.uid import Comprehensive3DSRStorage, EnhancedSRStorage

    before = None if document.review is None else document.review.predecessor
    if before is None:
        return None
    found = Dataset()
    found.StudyInstanceUID, found.SeriesInstanceUID = before.identity.study_uid, before.uid("series")
    found.SOPClassUID = EnhancedSRStorage if kind == "report" else Comprehensive3DSRStorage
    found.SOPInstanceUID = before.uid(kind)
    return [found]


def _evidence(document: Document, identity: Identity) -> Dataset:
    """Build the data set from which highdicom copies patient, study and reference to an image.

    Args:
        document: of the patient and the study.
        identity: of the image, which may be of an earlier study.
    """
    from pydicom.dataset import Dataset

    from encoder.reader.identity import PATIENT, STUDY

    image, attributes = Dataset(), document.identity.attributes
    image.SpecificCharacterSet = "ISO_IR 192"
    for keyword in (*PATIENT, *STUDY):
        if keyword not in _OPTIONAL or keyword in attributes:
            setattr(image, keyword, attributes.get(keyword, ""))
    image.StudyInstanceUID, image.SeriesInstanceUID = identity.study_uid, identity.series_uid
    image.SOPInstanceUID, image.SOPClassUID = identity.instance_uid, identity.class_uid
    return image


def _file(found: Dataset, document: Document) -> bytes:
    """Save an object as a file, with the document's time instead of the current time."""
    signature, made = document.signature, document.made
    found.SeriesDescription = "AI-generated draft, research use only" if signature is None else "AI draft, reviewed"
    found.PreliminaryFlag = "FINAL" if signature else "PRELIMINARY"
    found.CompletionFlagDescription = NOTICE[:64]
    for date, time in (("ContentDate", "ContentTime"), ("SeriesDate", "SeriesTime"),
                       ("InstanceCreationDate", "InstanceCreationTime")):  # fmt: skip
        setattr(found, date, f"{made:%Y%m%d}")
        setattr(found, time, f"{made:%H%M%S}")
    found.TimezoneOffsetFromUTC = f"{made:%z}"
    for observer in found.get("VerifyingObserverSequence", ()):
        observer.VerificationDateTime = f"{made:%Y%m%d%H%M%S}"
    _set_nested_times(found, made)
    stream = io.BytesIO()
    found.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _set_nested_times(found: Dataset, made: datetime) -> None:
    """Replace the current time, which highdicom writes into nested items."""
    for element in found.iterall():
        if element.keyword in ("ObservationDateTime", "ContributionDateTime", "ParticipationDateTime"):
            element.value = f"{made:%Y%m%d%H%M%S}"
