"""Rules that admit frontal chest radiographs by their DICOM header: modality, body part and view.

The rules are those of docs/dicom.md, "Content". Violations raise a forcible ReadError, or add a warning if ``force`` is
set. Returned names come from the fixed lists of this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from encoder.errors import ReadError

if TYPE_CHECKING:
    from encoder.reader.header import Header
    from encoder.reader.radiograph import View

RADIOGRAPHY = {"CR", "DX", "RG"}  # RG: digitised film
DOUBTFUL = {"SC", "OT"}
OTHER_MODALITIES = {
    "BI", "BMD", "CT", "DG", "DOC", "ECG", "EM", "ES", "FID", "GM", "IO", "IVUS", "KO", "MG", "MR", "NM", "OP", "OPT",
    "PR", "PT", "PX", "REG", "RF", "RTDOSE", "RTIMAGE", "RTPLAN", "RTSTRUCT", "SEG", "SM", "SR", "US", "XA", "XC",
}  # fmt: skip
MODALITIES = RADIOGRAPHY | DOUBTFUL | OTHER_MODALITIES
SOP_CLASSES = {  # storage classes that may hold a radiograph -> modality
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",  # for processing
    "1.2.840.10008.5.1.4.1.1.7": "SC",
    "1.2.840.10008.5.1.4.1.1.7.1": "SC",
    "1.2.840.10008.5.1.4.1.1.7.2": "SC",
    "1.2.840.10008.5.1.4.1.1.7.3": "SC",
    "1.2.840.10008.5.1.4.1.1.7.4": "SC",
}
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"

CHEST_PARTS = {"CHEST", "THORAX", "LUNG", "LUNGS"}
BODY_PARTS = CHEST_PARTS | {
    "ABDOMEN", "ABDOMENPELVIS", "ANKLE", "ARM", "BREAST", "CHESTABDOMEN", "CLAVICLE", "CSPINE", "ELBOW",
    "EXTREMITY", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "JAW", "KNEE", "LEG",
    "LSPINE", "NECK", "PELVIS", "RIB", "RIBS", "SCAPULA", "SHOULDER", "SKULL", "SPINE", "SSPINE", "STERNUM",
    "THIGH", "THUMB", "TOE", "TSPINE", "WHOLEBODY", "WRIST",
}  # fmt: skip
# thorax, chest, lung, thoracic cavity
CHEST_CODES = {"51185008", "816094009", "T-D3000", "39607008", "T-28000", "43799004", "T-D3300"}

FRONTAL_VIEWS: dict[str, View] = {
    "PA": "PA", "AP": "AP", "PA_ERECT": "PA", "AP_ERECT": "AP", "AP_SUPINE": "AP", "AP SUPINE": "AP",
    "PORTABLE AP": "AP",
    "POSTERO_ANTERIOR": "PA", "ANTERO_POSTERIOR": "AP", "POSTERO-ANTERIOR": "PA", "ANTERO-POSTERIOR": "AP",
    "POSTEROANTERIOR": "PA", "ANTEROPOSTERIOR": "AP", "FRONTAL": "frontal",
    "272479007": "PA", "R-10214": "PA", "R-40888": "PA", "399348003": "AP", "R-10206": "AP",
    "399033003": "frontal", "R-10202": "frontal",
}  # fmt: skip
DECUBITUS = {"LLD", "RLD"}  # frontal beam, patient lying on a side
SIDE_VIEWS = {
    "LL", "RL", "LAT", "LATERAL", "LEFT LATERAL", "RIGHT LATERAL", "LLAT", "RLAT", "LAO", "RAO", "LPO", "RPO",
    "OBLIQUE", "399067008", "R-102CD", "399173006", "R-10236", "399198007", "R-10232", "399352003", "399260004",
    "399182000", "R-102C1", "399135007", "R-10220", "399006002", "R-10212", "399356000", "R-40985", "399038007",
    "R-10210", "399184004", "399236003",
    "LEFT ANTERIOR OBLIQUE", "RIGHT ANTERIOR OBLIQUE", "LEFT POSTERIOR OBLIQUE", "RIGHT POSTERIOR OBLIQUE",
}  # fmt: skip

OVERRIDDEN = "refusal overridden (--force): "
"""Start of the warnings that replace refusals."""


@dataclass
class Admission:
    """Collector of the warnings about one image.

    Attributes:
        force: True turns forcible refusals into warnings.
        warnings: fixed texts, without repetition.
    """

    force: bool = False
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Add a warning unless it is present already."""
        if text not in self.warnings:
            self.warnings.append(text)

    def refuse(self, reason: str, message: str) -> None:
        """Raise a forcible refusal; with ``force`` add a warning instead.

        Raises:
            ReadError: unless ``force`` is set.
        """
        if not self.force:
            raise ReadError(reason, message, forcible=True, hint="--force overrides this refusal")
        self.warn(f"{OVERRIDDEN}{message}")


def modality(header: Header, admission: Admission) -> str | None:
    """Return the modality: CR, DX and RG pass, SC and OT add a warning, others are refused; None if not stated."""
    stated = header.code("Modality")
    name = (stated if stated in MODALITIES else "OTHER") if stated else None
    sop_class = header.raw("SOPClassUID").decode("latin-1").strip(" \0")
    by_class = SOP_CLASSES.get(sop_class) if sop_class else name
    for kind in (name, by_class if by_class is not None else "OTHER"):
        if kind not in RADIOGRAPHY | DOUBTFUL | {None}:
            what = f"modality {kind}" if kind != "OTHER" else "another modality"
            admission.refuse(
                "modality", f"the image is not a radiograph ({what}), but a chest radiograph (CR, DX) is needed"
            )
            break
    if name is None:
        admission.warn("the modality is not stated")
    if name in DOUBTFUL or by_class == "SC":
        admission.warn("secondary capture or other image: its grey scale may have been changed")
    return name


def presentation_intent(header: Header, admission: Admission) -> str | None:
    """Return the presentation intent; FOR PROCESSING (raw detector data) is refused."""
    stated = header.code("PresentationIntentType")
    sop_class = header.raw("SOPClassUID").decode("latin-1").strip(" \0")
    if stated == "FOR PROCESSING" or sop_class == DX_FOR_PROCESSING:
        admission.refuse("for_processing", "the image is raw detector data (for processing), not for presentation")
        return "FOR PROCESSING"
    return "FOR PRESENTATION" if stated == "FOR PRESENTATION" else None


def body_part(header: Header, admission: Admission) -> str | None:
    """Return the body part: chest and thorax pass, others are refused.

    A missing body part adds a warning; without a radiography modality it is refused.
    """
    part = header.code("BodyPartExamined")
    part = "".join(c for c in part if c.isalnum())
    for item in [] if part else header.items("AnatomicRegionSequence"):
        meaning = item.raw("CodeMeaning").decode("latin-1").strip(" \0").upper()
        if item.code("CodeValue") in CHEST_CODES or meaning in CHEST_PARTS:
            return "CHEST"
        part = meaning if meaning in BODY_PARTS else "OTHER"
    if not part:
        if header.code("Modality") not in RADIOGRAPHY:
            admission.refuse("body_part", "neither a radiography modality nor the chest as body part is stated")
        admission.warn("the body part is not stated")
        return None
    if part in CHEST_PARTS:
        return part
    if part.removesuffix("PA").removesuffix("AP").removeprefix("PORT").removeprefix("PORTABLE") == "CHEST":
        return "CHEST"
    name = part if part in BODY_PARTS else "OTHER"
    admission.refuse("body_part", "the image shows a body part other than the chest")
    return name


def view(header: Header, admission: Admission) -> tuple[View, str]:
    """Return the projection and the attribute that states it; lateral and oblique views are refused."""
    orientation = header.codes("PatientOrientation")
    sequence = [
        word
        for item in header.items("ViewCodeSequence")
        for word in (item.code("CodeValue"), item.raw("CodeMeaning").decode("latin-1").strip(" \0").upper())
    ]
    for source, words in (("ViewPosition", [header.code("ViewPosition")]), ("ViewCodeSequence", sequence)):
        for word in words:
            if word in FRONTAL_VIEWS:
                return FRONTAL_VIEWS[word], source
            if word in DECUBITUS:
                admission.warn("decubitus view: the patient lies on a side")
                return "frontal", source
            if word in SIDE_VIEWS:
                admission.refuse("lateral", "the image is a lateral or oblique view, but a frontal view is needed")
                return "lateral", source
    if orientation and orientation[0][:1] in ("A", "P"):
        admission.refuse("lateral", "the image is a lateral view by its orientation, but a frontal view is needed")
        return "lateral", "PatientOrientation"
    if orientation and orientation[0][:1] in ("L", "R"):
        return "frontal", "PatientOrientation"
    admission.warn("the view (PA, AP, lateral) is not stated")
    return "unknown", "none"
