"""Documents of every kind that can be written, by name: what outside referees judge."""

from __future__ import annotations

import itertools
from dataclasses import replace

from encoder.reader.identity import Identity
from encoder.reader.radiograph import ImageFacts
from llava_rad.outputs.document import FINDINGS, Document, Measurement, Review, Signature, anonymous
from tests.llava_rad.outputs.reports import BOX, report, study_report
from tests.llava_rad.outputs.reports import LATERAL as LATERAL_SHA
from tests.llava_rad.outputs.reports import PRIOR as PRIOR_SHA
from tests.llava_rad.outputs.test_documents import AT, IDENTITY

LATERAL = replace(IDENTITY, series_uid="1.2.3.7", instance_uid="1.2.3.8", class_uid="1.2.840.10008.5.1.4.1.1.1")
PRIOR = Identity("1.2.4.1", "1.2.4.2", "1.2.4.3", "1.2.840.10008.5.1.4.1.1.7")
OTHERS = {LATERAL_SHA: LATERAL, PRIOR_SHA: replace(PRIOR, attributes={"PatientID": "P-17"})}
_EMPTY = replace(IDENTITY, attributes={})
_ODD = replace(
    IDENTITY,
    attributes={
        "PatientID": "P-17", "IssuerOfPatientID": "Ward 9", "PatientName": "Müller^Jürg=田中^太郎", "PatientSex": "O",
        "StudyDate": "20261125", "StudyTime": "235959.5", "StudyID": "7", "ReferringPhysicianName": "ward",
        "StudyDescription": "Thorax p.a. <Größe>",
    },
)  # fmt: skip
_FRAMES = replace(IDENTITY, class_uid="1.2.840.10008.5.1.4.1.1.7.2")
_ANN, _BOB = Signature("ann", AT, 1), Signature("Bob Ö^Meyer", AT, 2)
_ENDS = ((10.5, 20.0), (40.0, 60.25))
_WIDTHS = ((10.0, 20.0), (41.0, 20.0), (0.0, 30.0), (64.0, 30.0))


def measurements(image: Identity) -> tuple[Measurement, ...]:
    """Lengths and cardiothoracic ratios in mm and in pixels, in the frontal, lateral and prior image."""
    return (
        Measurement("length", _ENDS, image, (50.123456789012345,), "mm", "at the detector: the structure is smaller"),
        Measurement("length", _ENDS, LATERAL, (1e-3,), "px"),
        Measurement("cardiothoracic", _WIDTHS, image, (31.0, 64.0), "px"),
        Measurement("cardiothoracic", _WIDTHS, PRIOR, (131.1, 264.4), "mm", "portable film"),
    )


def _plain() -> dict[str, Document]:
    """Documents of one image."""
    drafted, nothing = report("a" * 64, "Heart normal.", "There may be an effusion; see “below”."), report("a" * 64, "")
    answers = itertools.cycle(("positive", "negative", "uncertain", "not mentioned"))
    labels = dict(zip(FINDINGS, answers, strict=False))  # the answers have no end

    def full(image: Identity) -> Review:
        text = ("A" * 1000 + ".", "Größe < 3 & > 2.")
        return Review(text, ("Normal.",), ("look", "2"), labels, measurements(image))

    found = {}
    for name, identity in (("anonymous", None), ("identified", IDENTITY), ("empty header", _EMPTY), ("odd", _ODD)):
        draft = Document.of(drafted, AT, identity=identity)
        first = replace(draft, review=Review(("Heart normal.",)), signature=_ANN)
        whole = full(identity or anonymous("a" * 64))
        again = replace(whole, predecessor=first)
        found |= {
            f"draft, {name}": draft,
            f"empty draft, {name}": Document.of(nothing, AT, identity=identity),
            f"unsigned review with corrections and measurements, {name}": replace(draft, review=whole),
            f"signed, {name}": first,
            f"second version with corrections and measurements, {name}": replace(first, review=again, signature=_BOB),
            f"reopened version, {name}": replace(first, review=again, signature=None),
        }
    alone = Review((), ("Impression alone.",), ("look",))
    return found | {"signed impression alone": Document.of(drafted, AT, review=alone, signature=_ANN)}


def _studies() -> dict[str, Document]:
    """Documents of frontal, lateral and prior image with boxes and two sections."""
    turned = ImageFacts(format="dicom", rows=64, columns=48, rotated=90, mirrored=True, frames=3, frame=2)
    two, several = study_report(), study_report(facts=turned, boxes=((BOX, BOX), (BOX,)))
    found = {
        "study, anonymous": Document.of(two, AT),
        "study": Document.of(two, AT, identity=IDENTITY, others=OTHERS),
        "study without boxes": Document.of(study_report(boxes=((), ())), AT, identity=IDENTITY, others=OTHERS),
        "study, several boxes, turned": Document.of(several, AT, identity=IDENTITY, others=OTHERS),
        "study, frames": Document.of(several, AT, identity=_FRAMES, others=OTHERS),
        "study, other images unnamed": Document.of(two, AT, identity=IDENTITY, others={}),
        "study, empty header": Document.of(two, AT, identity=_EMPTY, others=OTHERS),
    }
    review = Review(("There is a nodule.",), ("Normal.",), boxes=((BOX,),))
    signed = {f"signed {name}": replace(one, review=review, signature=_ANN) for name, one in found.items()}
    return found | signed


KINDS = {**_plain(), **_studies()}
