"""A set of signed studies for research: images, reports and labels in one zip file, without anything of a header.

The application keeps pixels, not files, so its images are made anew: as 16-bit PNG, or by highdicom as DICOM objects
that hold no attribute of the original, which is more than the Basic Profile of DICOM PS3.15 annex E asks for.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.exports import ai_generated, csv_row, document, last_signed
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


def research_set(store: Store, images: ImageFolder, owner: str, path: Path, *, dicom: bool = False) -> int:
    """Write all signed studies of an owner.

    No file name, study name or reviewer goes along. What was typed does: a reviewer who typed a name has put it there.

    Args:
        store: the reviews.
        images: their pixels.
        owner: whose studies.
        path: of the zip file.
        dicom: images as DICOM objects, with a structured report beside each.

    Returns:
        How many studies.
    """
    reports, labels = [], [csv_row(("image", *FINDINGS))]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for study in store.studies(owner):
            state = store.state(owner, study)
            signed = last_signed(state)
            if signed is None:
                continue
            pixels = images.pixels(state["image"])
            name = f"images/{study}.{'dcm' if dicom else 'png'}"
            archive.writestr(name, _dicom(pixels, study) if dicom else _png(pixels))
            if dicom and (signed["document"]["draft"] or {}).get("report"):
                archive.writestr(f"reports/{study}.dcm", _structured_report(state, study))
            shown = signed["document"]
            record = {
                "image": name, "text": signed["text"], "fields": shown["fields"], "sentences": shown["sentences"],
                "model": signed["model"], "facts": state["facts"], "notice": NOTICE,
                "ai_generated": ai_generated(shown),
            }  # fmt: skip
            reports.append(json.dumps(record, ensure_ascii=False) + "\n")
            labels.append(csv_row([name, *labels_of(signed["text"]).values()]))
        archive.writestr("reports.jsonl", "".join(reports))
        archive.writestr("labels.csv", "".join(labels))
        archive.writestr("README.txt", f"{NOTICE}\n{len(reports)} reports signed by a person, images without header.\n")
    return len(reports)


def identity_of(study: str) -> Identity:
    """Identifiers that stand for a study of the set, and for nothing outside of it."""
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

    identity = identity_of(study)
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


def _structured_report(state: dict[str, Any], study: str) -> bytes:
    from llava_rad.outputs.sr import to_sr

    found = document(state)
    assert found.signature is not None
    nobody = replace(found.signature, reviewer="reviewer", at=datetime.fromtimestamp(0, UTC))
    return to_sr(replace(found, identity=identity_of(study), signature=nobody)).report
