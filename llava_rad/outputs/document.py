"""A report prepared for hospital formats: sections, named findings, model, signature, and identity of the image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

from encoder.errors import ReadError
from encoder.reader.identity import Identity
from llava_rad.outputs.grounding import in_file
from metrics.labels import BLANK, CLASSES, NEGATIVE, POSITIVE, UNCERTAIN
from metrics.rules.labeler import label

if TYPE_CHECKING:
    from llava_rad.outputs.report import BoxFacts, Report, StudyImageFacts

_COMPUTED_RADIOGRAPHY: Final = "1.2.840.10008.5.1.4.1.1.1"

SCHEME: Final = "99LLAVARAD"
"""Coding scheme of what no standard scheme has as such: the fourteen CheXpert findings, the cardiothoracic ratio."""
FINDINGS: Final = CLASSES
"""The fourteen CheXpert findings."""
CONTEXT: Final = ("indication", "technique", "comparison")
"""Sections of a report above its findings, in their order."""
_SAID: Final = {BLANK: "not mentioned", POSITIVE: "positive", NEGATIVE: "negative", UNCERTAIN: "uncertain"}


def labels_of(text: str) -> dict[str, str]:
    """Label a text with the labeler of phrases ``rules`` (not CheXbert).

    Returns:
        "positive", "negative", "uncertain" or "not mentioned" for each of the fourteen findings. An empty text mentions
        none, not even "No Finding", which the labeler gives to a report that names no finding.
    """
    return {finding: _SAID[code] for finding, code in zip(FINDINGS, label(text), strict=True)}


@dataclass(frozen=True)
class Signature:
    """Approval by a person.

    Attributes:
        reviewer: name of the person.
        at: time of signing, with time zone.
        version: of the signed report, from 1.
    """

    reviewer: str
    at: datetime
    version: int = 1


@dataclass(frozen=True)
class Measurement:
    """Measurement in an image.

    Attributes:
        kind: ``"length"`` or ``"cardiothoracic"``.
        points: ends of the length, or of the heart's width and then of the chest's: (column, row) in pixels of the
            image as it is stored in its file; 0, 0 is the outer corner of its first pixel (DICOM PS3.3 C.18.6).
        image: identity of the image.
        lengths: of the pairs of points.
        unit: of the lengths: ``"mm"``, or ``"px"`` if the file states no usable pixel spacing.
        note: about the value; may be empty.
    """

    kind: str
    points: tuple[tuple[float, float], ...]
    image: Identity
    lengths: tuple[float, ...]
    unit: str
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Width of the heart divided by that of the chest; None for a length."""
        return round(self.lengths[0] / self.lengths[1], 3) if self.kind == "cardiothoracic" else None

    @property
    def line(self) -> str:
        """The measurement in words."""
        lengths = [f"{length:.1f} {self.unit}" for length in self.lengths]
        note = f" ({self.note})" if self.note else ""
        if self.ratio is None:
            return f"Length {lengths[0]}{note}"
        return f"Cardiothoracic ratio {self.ratio:.3f} (heart {lengths[0]}, chest {lengths[1]}){note}"


@dataclass(frozen=True)
class StudyImage:
    """Image that a report was written from.

    Attributes:
        role: ``"frontal"``, ``"lateral"`` or ``"prior"``.
        sha256: of its file.
        identity: its identifiers.
    """

    role: str
    sha256: str
    identity: Identity


Region = tuple[tuple[float, float], ...]
"""Corners of a box in the frontal image: (column, row) in pixels of its file."""


@dataclass(frozen=True)
class Review:
    """Content of a report under review or signed, in place of the draft's.

    Attributes:
        findings: sentences of the section.
        impression: sentences of the section.
        warnings: about images and draft, one line each.
        corrections: labels of CheXpert findings that the reviewer set, in place of those of the text.
        measurements: in the images of the study.
        predecessor: the version of the signed report that this one replaces.
        boxes: of each sentence of the findings, in the frontal image; empty if there are none.
        context: texts of the sections above the findings, by :data:`CONTEXT`.
    """

    findings: tuple[str, ...]
    impression: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    corrections: Mapping[str, str] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    predecessor: Document | None = None
    boxes: tuple[tuple[BoxFacts, ...], ...] = ()
    context: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Document:
    """One report for an archive.

    Attributes:
        report: the draft, with model, input and warnings.
        identity: of image, study and patient; :func:`anonymous` if identifiers are not carried.
        signature: None for a draft, and for a review that is not signed.
        at: creation time of the document, with time zone.
        review: None for a draft that nobody has reviewed.
        others: lateral and prior image that the draft was written from.
        unnamed: roles of such images that the document does not refer to: without identifiers, or of another patient.
    """

    report: Report
    identity: Identity
    signature: Signature | None
    at: datetime
    review: Review | None = None
    others: tuple[StudyImage, ...] = ()
    unnamed: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        report: Report,
        at: datetime,
        *,
        identity: Identity | None = None,
        others: Mapping[str, Identity] | None = None,
        signature: Signature | None = None,
        review: Review | None = None,
    ) -> Document:
        """Build a document; without an identity it names no patient and belongs to no study of an archive.

        Args:
            report: the draft.
            at: creation time, with time zone.
            identity: of the frontal image.
            others: identities of the draft's other images by SHA-256; without ``identity`` they are derived.
            signature: None if it is not signed.
            review: None for a draft that nobody has reviewed.
        """
        frontal, named = identity or anonymous(report.input.sha256), dict(others or {})
        if identity is None:
            for image in report.images[1:]:
                named[image.sha256] = anonymous(image.sha256, None if image.role == "prior" else frontal)
        images = [
            StudyImage(image.role, image.sha256, named[image.sha256])
            for image in report.images[1:]
            if image.sha256 in named and _of_one_patient(frontal, named[image.sha256])
        ]
        kept = {image.sha256 for image in images}
        unnamed = tuple(image.role for image in report.images[1:] if image.sha256 not in kept)
        return cls(report, frontal, signature, at, review, tuple(images), unnamed)

    @classmethod
    def identified(cls, report: Report, at: datetime, read: Callable[[str], Identity]) -> Document:
        """Build a document with the identifiers of the draft's images.

        Args:
            report: the draft.
            at: creation time, with time zone.
            read: reads the identifiers of the image with a SHA-256.

        Raises:
            ReadError: if the frontal image has none, or an image cannot be read. Another image without identifiers is
                not referred to.
        """
        identity = read(report.input.sha256)
        return cls.of(report, at, identity=identity, others=_known(report.images[1:], read))

    @property
    def images(self) -> tuple[StudyImage, ...]:
        """Images that the draft was written from, the frontal one first."""
        return (StudyImage("frontal", self.report.input.sha256, self.identity), *self.others)

    def regions(self, number: int) -> list[Region]:
        """Return the boxes of a sentence of the findings as closed lines, in pixels of the frontal image's file."""
        boxes: Sequence[Sequence[BoxFacts]]
        if self.review is not None:
            boxes = self.review.boxes
        else:
            boxes = [finding.boxes or () for finding in self.report.report.findings if finding.text]
        facts = self.report.input.facts
        found = []
        for box in boxes[number] if number < len(boxes) else ():
            if box.image != 0:
                continue
            left, top, right, bottom = box.x_min, box.y_min, box.x_max, box.y_max
            corners = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
            placed = (
                in_file(x, y, rows=facts.rows, columns=facts.columns, rotated=facts.rotated, mirrored=facts.mirrored)
                for x, y in corners
            )
            found.append(tuple(placed))
        return found

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences of the findings: of the review, or else of the draft."""
        if self.review is not None:
            return self.review.findings
        return tuple(finding.text for finding in self.report.report.findings if finding.text)

    @property
    def impression(self) -> tuple[str, ...]:
        """Sentences of the impression: of the review, or else of the draft."""
        if self.review is not None:
            return self.review.impression
        drafted = self.report.report.impression
        return () if drafted is None else tuple(one.text for one in drafted.sentences)

    @property
    def context(self) -> dict[str, str]:
        """Texts of the sections above the findings that are not empty, by :data:`CONTEXT`."""
        given = {} if self.review is None else self.review.context
        return {name: given[name] for name in CONTEXT if given.get(name)}

    @property
    def text(self) -> str:
        """Paragraph of the findings, then that of the impression."""
        return "\n\n".join(" ".join(part) for part in (self.sentences, self.impression) if part)

    @property
    def warnings(self) -> list[str]:
        """Warnings of the review or else the draft, and those about identifiers that were left out."""
        given = self.report.warnings if self.review is None else self.review.warnings
        return list(dict.fromkeys([*given, *self.warnings_of_identity]))

    @property
    def warnings_of_identity(self) -> list[str]:
        """Warnings about identifiers that were left out, and images that the document does not refer to."""
        unnamed = [
            f"the {role} image has no identifiers of this patient: the document does not refer to it"
            for role in self.unnamed
        ]
        return [*([self.identity.warning] if self.identity.warning else []), *unnamed]

    @property
    def findings(self) -> dict[str, str]:
        """CheXpert findings: positive, negative or uncertain by the text, or by the reviewer who corrected them."""
        named = labels_of(self.text) | dict(self.corrections)
        return {finding: said for finding, said in named.items() if said != "not mentioned"}

    @property
    def corrections(self) -> Mapping[str, str]:
        """Labels of findings that the reviewer set."""
        return {} if self.review is None else self.review.corrections

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """Measurements of the reviewer."""
        return () if self.review is None else self.review.measurements

    @property
    def made(self) -> datetime:
        """Time of signing; of creation for a draft."""
        return self.signature.at if self.signature else self.at

    @property
    def model_name(self) -> str:
        """Model id, with ``@revision`` if there is one."""
        model = self.report.model
        return f"{model.id}@{model.revision}" if model.revision else model.id

    def uid(self, kind: str) -> str:
        """Derive a UID from images, model and version; a document stored twice has the same UID and is stored once.

        A signed version counts with its time of signing: the same file may be opened and signed twice.
        Without a signature the content counts as the version, and of a review also the time.
        """
        if self.signature:
            version = f"{self.signature.version} {self.signature.at.isoformat()}"
        else:
            version = repr(
                (
                    self.at.isoformat() if self.review else "",
                    self.text,
                    self.warnings,
                    sorted(self.corrections.items()),
                    [one.line for one in self.measurements],
                    [self.regions(number) for number in range(len(self.sentences))],
                )
            )
        if self.context:
            version += repr(self.context)
        made_from, model = self.report.input, self.report.model
        frame = str(made_from.facts.frame)
        others = [image.sha256 for image in self.report.images[1:]]
        return uid_of(kind, self.identity.instance_uid, made_from.sha256, frame, model.sha256, version, *others)


def _of_one_patient(frontal: Identity, other: Identity) -> bool:
    """Tell whether two identities may be of one patient: none of the attributes that both state differs."""
    stated = ((frontal.attributes.get(name), other.attributes.get(name)) for name in ("PatientID", "IssuerOfPatientID"))
    return all(one == two for one, two in stated if one and two)


def with_uids(report: Report, read: Callable[[str], Identity]) -> Report:
    """Return a report that states the UIDs of its images; ``read`` is as for :meth:`Document.identified`."""
    found = _known(report.images, read)
    images = [
        image.model_copy(update={"study_uid": known.study_uid, "sop_instance_uid": known.instance_uid})
        if (known := found.get(image.sha256))
        else image
        for image in report.images
    ]
    return report.model_copy(update={"images": images})


def _known(images: Sequence[StudyImageFacts], read: Callable[[str], Identity]) -> dict[str, Identity]:
    """Read the identifiers of images by SHA-256; those without any are left out."""
    found = {}
    for image in images:
        try:
            found[image.sha256] = read(image.sha256)
        except ReadError as error:
            if error.reason not in ("not_an_image", "no_identity"):
                raise
    return found


def anonymous(sha256: str, study: Identity | None = None) -> Identity:
    """Derive an identity from a file's SHA-256: equal for documents of the same file, and without patient data.

    Args:
        sha256: of the file.
        study: of another image of the same study; None for a study of its own.
    """
    whole, series, image = (uid_of(level, sha256) for level in ("study", "series", "image"))
    return Identity(study.study_uid if study else whole, series, image, _COMPUTED_RADIOGRAPHY)


def uid_of(*parts: str) -> str:
    """Derive a UID (DICOM PS3.5 B.2, UUID version 8) from texts; equal texts give equal UIDs."""
    digest = bytearray(hashlib.sha256("\0".join(parts).encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80  # version 8: custom (RFC 9562)
    digest[8] = digest[8] & 0x3F | 0x80
    return f"2.25.{int.from_bytes(digest)}"
