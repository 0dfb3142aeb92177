"""Rules that admit frontal chest radiographs by their DICOM header: modality, body part and view.

The rules are those of docs/dicom.md, "Content". Violations raise a forcible ReadError, or add a warning if ``force`` is
set. Returned names come from the fixed lists of this module.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from encoder.errors import ReadError
from encoder.reader.views import FRONTAL, OTHER_PART, View, signs_of, stated, view_of, words_of

if TYPE_CHECKING:
    from encoder.reader.header import Header

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
_CHEST_WORDS = re.compile(
    "CHEST|CXR|TH?ORAX(AUFNAHME|UBERSICHT|ORGANE)?|TORACE|PECHO|PEITO|BRUSTKORB|BORSTKAS|LUNGS?|LUNGEN?|PULMON(ES)?|PULMAO|PULMOES|"
    "POUMONS?|POLMON[EI]|LUNGENUBERSICHT|KLATK[AI]|PŁUCA?|HRUDNIKU?|PLICE|KEUHKO(T|KUVA)|AKCIGER|ΘΩΡΑΚ(ΑΣ|ΟΣ)|КЛЕТК[АИ]|"
    "ЛЕГКИ[ЕХ]|ОГК|胸部?|胸片|胸部?(正位|正面|侧位|側面|平片|単純|[XX][線线光].*)|"
    + unicodedata.normalize("NFKD", "흉부(정면|측면)?")
)
# words that name no body part
_TECHNIQUE = re.compile(
    "PA|AP|PORT(ABLE)?|MOBILE|BEDSIDE|ERECT|UPRIGHT|STANDING|SITTING|SUPINE|ROUTINE|DIGITAL|XR|CR|DX|RX|RTG|X|RAY|XRAY|"
    "VIEWS?|VW|[0-9]+"
)
_BESIDE = {"HEAD", "ARM", "HEART", "TRACHEA", "MEDIASTINUM", "WALL", "WHOLE", "DORSAL"}  # with the chest: another image

_NAMED: dict[View, str] = {
    "lateral": "a lateral view", "oblique": "an oblique view", "other": "a special view (such as swimmers or ribs)",
}  # fmt: skip
_LONGEST = 256
_MOST_ITEMS = 16

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
    stated = re.sub("[^A-Z]", "", header.code("PresentationIntentType"))
    sop_class = header.raw("SOPClassUID").decode("latin-1").strip(" \0")
    if stated in ("FORPROCESSING", "PROCESSING") or sop_class == DX_FOR_PROCESSING:
        admission.refuse("for_processing", "the image is raw detector data (for processing), not for presentation")
        return "FOR PROCESSING"
    return "FOR PRESENTATION" if stated == "FORPRESENTATION" else None


def body_part(header: Header, admission: Admission) -> str | None:
    """Return the body part: the chest passes, others and the chest together with another part are refused.

    A missing body part, also words such as "unknown" and "portable", adds a warning; without a radiography modality
    it is refused.
    """
    texts = [" ".join(header.codes("BodyPartExamined"))]
    regions = [
        "CHEST" if item.code("CodeValue") in CHEST_CODES else item.text("CodeMeaning")[:_LONGEST] or "OTHER"
        for item in header.items("AnatomicRegionSequence")[:_MOST_ITEMS]
    ]
    if not _names_part(texts[0]):
        texts = regions
    elif _names_chest(texts) and _names_chest(regions) is False:
        admission.warn("BodyPartExamined states the chest, but AnatomicRegionSequence another part")
    chest = _names_chest(texts)
    if chest is None:
        if header.code("Modality") not in RADIOGRAPHY:
            admission.refuse("body_part", "neither a radiography modality nor the chest as body part is stated")
        admission.warn("the body part is not stated")
        return None
    name = "".join(texts[0].split()) if len(texts) == 1 else ""
    if chest:
        return name if name in CHEST_PARTS else "CHEST"
    admission.refuse("body_part", "the image shows a body part other than the chest")
    return name if name in BODY_PARTS - CHEST_PARTS else "OTHER"


def _names_chest(texts: list[str]) -> bool | None:
    """Tell whether texts name the chest and no other part; None if they name no part."""
    words = [word for text in texts if _names_part(text) for word in words_of(text[:_LONGEST])]
    if not words:
        return None
    beside = not _BESIDE.isdisjoint(words) or any(map(OTHER_PART.fullmatch, words))
    return any(map(_CHEST_WORDS.fullmatch, words)) and not beside


def _names_part(text: str) -> bool:
    return stated(text[:_LONGEST]) and not all(map(_TECHNIQUE.fullmatch, words_of(text[:_LONGEST])))


def orientation(header: Header) -> tuple[str, str] | None:
    """Return the directions of rows and columns (PS3.3 C.7.6.1.1.1), such as ``("L", "F")``; None if unreadable."""
    stated = header.codes("PatientOrientation")
    return (stated[0], stated[1]) if len(stated) == 2 and all(map(_is_direction, stated)) else None


def _is_direction(text: str) -> bool:
    """Tell whether a text is a direction: letters of one to three different axes."""
    axes = [axis for letter in text for axis in ("LR", "AP", "HF") if letter in axis]
    return 0 < len(text) == len(set(axes))


def view(header: Header, admission: Admission) -> tuple[View, str]:
    """Return the projection and the attribute that states it; other views than frontal ones are refused.

    A stated view that is not understood is ``"unknown"``, whatever the orientation is. Words in place of an orientation
    count like those of the body part.
    """
    statements = [("ViewPosition", "/".join(header.codes("ViewPosition")))]
    for item in header.items("ViewCodeSequence")[:_MOST_ITEMS]:
        for code in (item, *item.items("ViewModifierCodeSequence")[:_MOST_ITEMS]):
            statements += [("ViewCodeSequence", code.code("CodeValue")), ("ViewCodeSequence", code.text("CodeMeaning"))]
    statements = [(source, text) for source, text in statements if text]
    no_directions = [word for word in header.codes("PatientOrientation") if not _is_direction(word)]
    words = {
        "BodyPartExamined": " ".join(header.codes("BodyPartExamined")),
        "PatientOrientation": "/".join(word for word in no_directions if view_of(word) != "other"),  # "LEFT", "FOOT"
    }
    if {"PA", "AP"} <= {view_of(text) for text in (*words.values(), *(text for _, text in statements))}:
        admission.warn("PA and AP are both stated: the first of them was followed")
    for source, text in words.items():  # a sign of another view outweighs PA and AP
        if view_of(text) != "unknown" and not (statements and view_of(text) in FRONTAL):
            statements.append((source, text))
    views = [(view_of(text), source) for source, text in statements]
    known = sorted((one for one in views if one[0] != "unknown"), key=lambda one: one[0] in FRONTAL)
    if known:
        found, source = known[0]
        if found not in FRONTAL:
            admission.refuse("lateral", f"the image is {_NAMED[found]}, but a frontal view is needed")
        elif any("decubitus" in signs_of(text) for _, text in statements):
            admission.warn("decubitus view: the patient lies on a side")
        return found, source
    rows, _ = orientation(header) or ("", "")
    if rows.startswith(("A", "P")):
        admission.refuse("lateral", "the image is a lateral view by its orientation, but a frontal view is needed")
        return "lateral", "PatientOrientation"
    if views:
        admission.warn("the stated view is none that this reader knows: it may be no frontal view")
        return "unknown", views[0][1]
    if rows.startswith(("L", "R")):
        if rows[1:2] in ("A", "P"):
            admission.warn("the view is not stated, and the orientation may be that of an oblique view")
            return "unknown", "PatientOrientation"
        return "frontal", "PatientOrientation"
    admission.warn("the view (PA, AP, lateral) is not stated")
    return "unknown", "none"
