"""Research set of signed studies: images without headers, reports, and labels by the reviewer, else by the text."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app import exports, measurements
from app.images import PixelsGone
from encoder.reader.identity import Identity
from llava_rad.outputs.document import FINDINGS, labels_of, uid_of
from llava_rad.outputs.report import NOTICE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from app.images import ImageFolder
    from app.store import Store

    Pixels = npt.NDArray[np.uint16]

SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
"""SOP class of the DICOM images."""


def write(store: Store, images: ImageFolder, owner: str, path: Path, *, dicom: bool = False) -> int:
    """Write the owner's signed studies to a zip file: images, reports, and labels by the reviewer, else by text.

    The application keeps pixels, not files, so images are written anew, as 16-bit PNG files or as DICOM objects
    without any attribute of the original (more than the Basic Profile of DICOM PS3.15 annex E asks for). File names,
    study names and reviewers are left out; text that a reviewer typed is included as it is. A report whose pixels are
    gone is written without image and labels.

    Args:
        store: studies and signed reports.
        images: pixels of the studies.
        owner: of the studies.
        path: of the zip file.
        dicom: write DICOM images, and a structured report for each that a model drafted.

    Returns:
        Number of studies written.
    """
    reports, labels, gone = [], [exports.csv_row(("image", *FINDINGS))], 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for study in store.studies(owner):
            state = store.state(owner, study)
            signed = exports.last_signed(state)
            if signed is None:
                continue
            name: str | None = f"images/{study}.{'dcm' if dicom else 'png'}"
            try:
                pixels = images.pixels(state["image"])
            except PixelsGone:
                name, gone = None, gone + 1
            else:
                archive.writestr(str(name), _dicom(pixels, study) if dicom else _png(pixels))
                if dicom and exports.report_of(signed["document"], state) is not None:
                    archive.writestr(f"reports/{study}.dcm", structured_report(state, study))
            shown = exports.shown_document(state, signed)
            record = {
                "image": name, "text": signed["text"], "fields": shown["fields"], "sentences": shown["sentences"],
                "corrections": shown["corrections"], "model": signed["model"], "facts": state["facts"],
                "measurements": [one for one in shown["measurements"] if one["image"] == state["image"]["id"]],
                "notice": NOTICE, "notices": exports.notices_of(state, signed),
                "ai_generated": exports.ai_generated(shown),
            }  # fmt: skip
            reports.append(json.dumps(record, ensure_ascii=False) + "\n")
            if name is not None:
                labels.append(exports.csv_row([name, *(labels_of(signed["text"]) | shown["corrections"]).values()]))
        archive.writestr("reports.jsonl", "".join(reports))
        archive.writestr("labels.csv", "".join(labels))
        about = f"{NOTICE}\n{len(reports)} reports signed by a person, images without header.\n"
        about += f"{gone} of them without image: its pixels are no longer on the server's disk.\n" if gone else ""
        archive.writestr("README.txt", about)
    return len(reports)


def pseudonym(study: str) -> Identity:
    """Return pseudonymous identifiers for a study of the research set."""
    whole, series, image = (uid_of("research set", level, study) for level in ("study", "series", "image"))
    return Identity(whole, series, image, SECONDARY_CAPTURE, {"PatientID": study[:16]})


def _png(pixels: Pixels) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _dicom(pixels: Pixels, study: str) -> bytes:
    from highdicom.sc import SCImage
    from highdicom.sr import CodedConcept

    identity = pseudonym(study)
    made = SCImage(
        pixels, "MONOCHROME2", 16, "PATIENT", identity.study_uid, identity.series_uid, 1, identity.instance_uid, 1,
        "LLaVA-Rad", patient_id=identity.attributes["PatientID"], patient_orientation=("L", "F"),
    )  # fmt: skip
    made.PatientIdentityRemoved = "YES"
    made.DeidentificationMethod = "Made anew from pixels: no attribute of the original"
    made.DeidentificationMethodCodeSequence = [
        CodedConcept("113100", "DCM", "Basic Application Confidentiality Profile")
    ]
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def structured_report(state: dict[str, Any], study: str) -> bytes:
    """Return the structured report of a signed study, with pseudonyms and without the reviewer."""
    from llava_rad.outputs.sr import to_sr

    found = exports.document(state)
    assert found.signature is not None
    anonymous = replace(found.signature, reviewer="reviewer", at=datetime.fromtimestamp(0, UTC))
    identity = pseudonym(study)
    measured = measurements.for_documents(state["signed"][-1]["document"], state, identity, upright=True)
    measured = tuple(one for one in measured if one.image == identity)  # the set holds no other image
    content = found.review and replace(found.review, measurements=measured, predecessor=None)
    image, source = state["image"], found.report.input
    facts = replace(
        source.facts, rows=image["height"], columns=image["width"], rotated=0, mirrored=False, frame=1, frames=1
    )
    report = found.report.model_copy(update={"input": source.model_copy(update={"facts": facts})})
    made = replace(found, report=report, identity=identity, signature=anonymous, review=content, others=(), unnamed=())
    return to_sr(made).report
