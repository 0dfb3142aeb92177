"""A report prepared for hospital formats: sections, named findings, model, signature, and identity of the image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

from encoder.reader.identity import Identity
from metrics.labels import BLANK, CLASSES, NEGATIVE, POSITIVE, UNCERTAIN
from metrics.rules.labeler import label

if TYPE_CHECKING:
    from llava_rad.outputs.report import Report

_COMPUTED_RADIOGRAPHY: Final = "1.2.840.10008.5.1.4.1.1.1"

SCHEME: Final = "99LLAVARAD"
"""Coding scheme of what no standard scheme has as such: the fourteen CheXpert findings, the cardiothoracic ratio."""
FINDINGS: Final = CLASSES
"""The fourteen CheXpert findings."""
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
class Review:
    """Content of a report under review or signed, in place of the draft's.

    Attributes:
        findings: sentences of the section.
        impression: sentences of the section.
        warnings: about images and draft, one line each.
        corrections: labels of CheXpert findings that the reviewer set, in place of those of the text.
        measurements: in the images of the study.
        predecessor: the version of the signed report that this one replaces.
    """

    findings: tuple[str, ...]
    impression: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    corrections: Mapping[str, str] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    predecessor: Document | None = None


@dataclass(frozen=True)
class Document:
    """One report for an archive.

    Attributes:
        report: the draft, with model, input and warnings.
        identity: of image, study and patient; :func:`anonymous` if identifiers are not carried.
        signature: None for a draft, and for a review that is not signed.
        at: creation time of the document, with time zone.
        review: None for a draft that nobody has reviewed.
    """

    report: Report
    identity: Identity
    signature: Signature | None
    at: datetime
    review: Review | None = None

    @classmethod
    def of(
        cls,
        report: Report,
        at: datetime,
        *,
        identity: Identity | None = None,
        signature: Signature | None = None,
        review: Review | None = None,
    ) -> Document:
        """Build a document; without an identity it names no patient and belongs to no study of an archive."""
        return cls(report, identity or anonymous(report.input.sha256), signature, at, review)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences of the findings: of the review, or else of the draft."""
        if self.review is not None:
            return self.review.findings
        return tuple(finding.text for finding in self.report.report.findings if finding.text)

    @property
    def impression(self) -> tuple[str, ...]:
        """Sentences of the impression, which drafts have not."""
        return () if self.review is None else self.review.impression

    @property
    def text(self) -> str:
        """Paragraph of the findings, then that of the impression."""
        return "\n\n".join(" ".join(part) for part in (self.sentences, self.impression) if part)

    @property
    def warnings(self) -> list[str]:
        """Warnings of the review or else the draft, and one about identifiers that were left out."""
        given = self.report.warnings if self.review is None else self.review.warnings
        return list(dict.fromkeys([*given, *([self.identity.warning] if self.identity.warning else [])]))

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
        """Derive a UID from image, model and version: a document stored twice has the same UID and is stored once.

        A review that is not signed changes from one document to the next: its content and time count as its version.
        The same file may be opened and signed twice: the time of signing counts, too.
        """
        version = f"{self.signature.version} {self.signature.at.isoformat()}" if self.signature else "0"
        if self.review is not None and self.signature is None:
            content = (
                self.text,
                self.warnings,
                sorted(self.corrections.items()),
                [one.line for one in self.measurements],
            )
            version = repr((self.at.isoformat(), *content))
        made_from, model = self.report.input, self.report.model
        frame = str(made_from.facts.frame)
        return uid_of(kind, self.identity.instance_uid, made_from.sha256, frame, model.sha256, version)


def anonymous(sha256: str) -> Identity:
    """Derive an identity from a file's SHA-256: equal for documents of the same file, and without patient data."""
    study, series, image = (uid_of(level, sha256) for level in ("study", "series", "image"))
    return Identity(study, series, image, _COMPUTED_RADIOGRAPHY)


def uid_of(*parts: str) -> str:
    """Derive a UID (DICOM PS3.5 B.2, UUID version 8) from texts; equal texts give equal UIDs."""
    digest = bytearray(hashlib.sha256("\0".join(parts).encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80  # version 8: custom (RFC 9562)
    digest[8] = digest[8] & 0x3F | 0x80
    return f"2.25.{int.from_bytes(digest)}"
