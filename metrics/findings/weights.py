"""Every number of the finding metric, each with its reason: weights, credit of related findings, errors, context.

The numbers were set by radiological judgement and are not fitted to ratings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from metrics.findings.errors import Significance

_U, _A, _N, _B = Significance
LEVELS: Final = (_B, _N, _A, _U)
INITIALS: Final = {"u": _U, "a": _A, "n": _N, "b": _B}

WEIGHTS: Final[dict[Significance, float]] = {_U: 1.0, _A: 0.5, _N: 0.25, _B: 0.05}
"""Weight of a finding: half for each step, and next to nothing for what is expected: it is shown but hardly counts."""
NOTHING_FOUND: Final = 0.5
"""Weight of "there is no finding": one false finding of that weight is as bad as missing the only one."""
UNCERTAIN: Final = 0.5
"""Share of its weight that a possible finding has: an even chance."""

# Deductions from the credit of a finding that both reports have. Their sum is at most the last one: a finding that is
# there, with every detail wrong, is worth more than none.
SIDE_WRONG: Final = 0.5  # the other lung: treatment would go to the wrong place
SIDE_PARTLY: Final = 0.25  # one of two sides
PLACE_FAR: Final = 0.25  # upper for lower zone, another bone
PLACE_NEAR: Final = 0.1  # the neighbouring zone: two readers differ as much on a frontal image
PLACE_MISSING: Final = 0.1  # the reference names a side or zone, the report none
TIP_WRONG: Final = 0.4  # a tip in another vessel or organ
TIP_MISSING: Final = 0.1
POSITION_WRONG: Final = 0.5  # good for bad or bad for good: a tube would be moved, or left
SEVERITY_FAR: Final = 0.3  # small for large
SEVERITY_NEAR: Final = 0.15  # a whole level: mild for moderate
SEVERITY_MISSING: Final = 0.05
SIZES: Final = ((1.2, 0.0), (1.5, 0.1), (2.0, 0.2), (float("inf"), 0.35))
"""Ratio of two sizes up to which a deduction holds: RECIST 1.1 calls a change below 20 % none (Eisenhauer 2009)."""
SIZE_NOISE: Final = 2.0
"""Difference in mm that is no difference: measurement varies by as much (Bankier et al. 2017, Fleischner Society)."""
NUMBER: Final = 0.15  # one for many: a metastasis is not a solitary nodule
CERTAINTY: Final = 0.1
NAME_LESS_EXACT: Final = 0.15  # the sign without the disease that the reference gives, or the disease for the sign
CHANGE_WRONG: Final = 0.2  # better for worse
CHANGE_NEAR: Final = 0.1  # stable for worse
CHANGE_FALSE: Final = 0.05
CHANGE_MISSING: Final = 0.05
SAME_FALSE: Final = 0.02  # "stable" says little
MOST: Final = 0.85

GOOD_TIPS: Final[dict[str, frozenset[str]]] = {
    # Lower superior vena cava to the cavoatrial junction; the upper atrium is accepted (Fletcher & Bodenham 2000). The
    # carina marks the vena cava on a radiograph (Stonelake & Bodenham 2006).
    "central venous catheter": frozenset(("svc", "cavoatrial junction", "right atrium", "carina")),
    "picc": frozenset(("svc", "cavoatrial junction", "right atrium", "carina")),
    "port": frozenset(("svc", "cavoatrial junction", "right atrium", "carina")),
    "pulmonary artery catheter": frozenset(("pulmonary artery",)),
    "enteric tube": frozenset(("stomach", "duodenum")),
    "umbilical catheter": frozenset(("ivc", "cavoatrial junction", "aorta")),
    "endotracheal tube": frozenset(("trachea", "carina")),
    "pacemaker": frozenset(("right atrium", "right ventricle")),
}
TUBE_ABOVE_CARINA: Final = (20.0, 70.0)
"""mm between the tip of an endotracheal tube and the carina: 5 cm, 2 more or less with the neck (Goodman 1976), and
never under 2 cm."""

# Credit of a finding under another name. Signs are what their diseases look like; the rest are neighbours that readers
# of one frontal image confuse.
RELATED: Final[dict[tuple[str, str], float]] = {
    ("consolidation", "pneumonia"): 0.85, ("opacity", "consolidation"): 0.85, ("opacity", "pneumonia"): 0.7,
    ("opacity", "atelectasis"): 0.6, ("consolidation", "atelectasis"): 0.5, ("pneumonia", "atelectasis"): 0.35,
    ("opacity", "pulmonary edema"): 0.5, ("interstitial opacity", "pulmonary edema"): 0.6,
    ("vascular congestion", "pulmonary edema"): 0.7, ("vascular congestion", "interstitial opacity"): 0.4,
    ("interstitial opacity", "interstitial lung disease"): 0.8, ("opacity", "interstitial opacity"): 0.5,
    ("opacity", "interstitial lung disease"): 0.3, ("interstitial opacity", "pneumonia"): 0.4,
    ("interstitial opacity", "airway thickening"): 0.4, ("interstitial opacity", "emphysema"): 0.25,
    ("opacity", "nodule"): 0.5, ("opacity", "mass"): 0.5, ("nodule", "mass"): 0.7, ("mass", "malignancy"): 0.8,
    ("nodule", "malignancy"): 0.6, ("opacity", "malignancy"): 0.4, ("cavity", "mass"): 0.4,
    ("cavity", "tuberculosis"): 0.5, ("cavity", "pneumonia"): 0.3, ("cavity", "bulla"): 0.3, ("cavity", "opacity"): 0.4,
    ("cavity", "lung abscess"): 0.7, ("lung abscess", "pneumonia"): 0.5, ("lung abscess", "mass"): 0.4,
    ("lung abscess", "opacity"): 0.4, ("air fluid level", "lung abscess"): 0.5, ("air fluid level", "cavity"): 0.6,
    ("air fluid level", "pneumothorax"): 0.3, ("air fluid level", "hiatal hernia"): 0.5,
    ("air fluid level", "pleural effusion"): 0.4, ("mediastinal mass", "malignancy"): 0.6,
    ("lymphadenopathy", "malignancy"): 0.5, ("widened mediastinum", "malignancy"): 0.3,
    ("pleural thickening", "malignancy"): 0.3,
    ("opacity", "aspiration"): 0.6, ("pneumonia", "aspiration"): 0.7, ("consolidation", "aspiration"): 0.6,
    ("atelectasis", "aspiration"): 0.3, ("pneumonia", "tuberculosis"): 0.5, ("opacity", "tuberculosis"): 0.5,
    ("opacity", "pulmonary contusion"): 0.6, ("consolidation", "pulmonary contusion"): 0.5,
    ("opacity", "scarring"): 0.5, ("atelectasis", "scarring"): 0.5, ("interstitial lung disease", "scarring"): 0.6,
    ("interstitial lung disease", "atelectasis"): 0.3, ("pleural thickening", "scarring"): 0.6,
    ("interstitial opacity", "scarring"): 0.4, ("opacity", "pleural effusion"): 0.3,
    ("volume loss", "atelectasis"): 0.8, ("volume loss", "low lung volumes"): 0.3,
    ("bronchovascular crowding", "low lung volumes"): 0.6,
    ("bronchovascular crowding", "vascular congestion"): 0.4, ("elevated hemidiaphragm", "volume loss"): 0.4,
    ("elevated hemidiaphragm", "low lung volumes"): 0.3, ("mediastinal shift", "volume loss"): 0.4,
    ("mediastinal shift", "tracheal deviation"): 0.6, ("blunted costophrenic angle", "pleural effusion"): 0.7,
    ("blunted costophrenic angle", "pleural thickening"): 0.6, ("blunted costophrenic angle", "scarring"): 0.4,
    ("pleural thickening", "pleural effusion"): 0.3, ("pleural thickening", "pleural plaque"): 0.7,
    ("empyema", "pleural effusion"): 0.7, ("hyperinflation", "emphysema"): 0.75, ("bulla", "emphysema"): 0.7,
    ("flattened diaphragm", "hyperinflation"): 0.75, ("flattened diaphragm", "emphysema"): 0.5,
    ("lucency", "pneumothorax"): 0.4, ("lucency", "tension pneumothorax"): 0.3, ("lucency", "bulla"): 0.5,
    ("lucency", "emphysema"): 0.4, ("lucency", "cavity"): 0.4, ("lucency", "hyperinflation"): 0.4,
    ("lucency", "pneumomediastinum"): 0.3, ("lucency", "pneumoperitoneum"): 0.3, ("lucency", "bone lesion"): 0.3,
    ("pneumothorax", "tension pneumothorax"): 0.7, ("pneumomediastinum", "subcutaneous emphysema"): 0.3,
    ("widened mediastinum", "aortic aneurysm"): 0.4, ("widened mediastinum", "aortic dissection"): 0.4,
    ("tortuous aorta", "aortic aneurysm"): 0.4, ("aortic aneurysm", "aortic dissection"): 0.5,
    ("widened mediastinum", "mediastinal mass"): 0.6, ("widened mediastinum", "lymphadenopathy"): 0.5,
    ("widened mediastinum", "tortuous aorta"): 0.5, ("mediastinal mass", "lymphadenopathy"): 0.6,
    ("mediastinal mass", "mass"): 0.6, ("mediastinal mass", "aortic aneurysm"): 0.4,
    ("hilar enlargement", "lymphadenopathy"): 0.7, ("hilar enlargement", "enlarged pulmonary artery"): 0.7,
    ("hilar enlargement", "mass"): 0.5, ("hilar enlargement", "vascular congestion"): 0.4,
    ("sarcoidosis", "lymphadenopathy"): 0.5, ("sarcoidosis", "interstitial lung disease"): 0.4,
    ("cardiomegaly", "pericardial effusion"): 0.5, ("cardiomegaly", "widened mediastinum"): 0.4,
    ("aortic calcification", "tortuous aorta"): 0.4, ("granuloma", "nodule"): 0.4, ("granuloma", "scarring"): 0.5,
    ("granuloma", "tuberculosis"): 0.4, ("granuloma", "bone lesion"): 0.2, ("airway thickening", "bronchiectasis"): 0.5,
    ("airway thickening", "emphysema"): 0.3, ("fracture", "vertebral compression"): 0.5,
    ("fracture", "bone deformity"): 0.6, ("vertebral compression", "degenerative spine"): 0.25,
    ("vertebral compression", "kyphosis"): 0.4, ("vertebral compression", "bone deformity"): 0.5,
    ("degenerative spine", "joint degeneration"): 0.6, ("scoliosis", "kyphosis"): 0.5,
    ("bone lesion", "malignancy"): 0.5, ("bone lesion", "fracture"): 0.25, ("fracture", "dislocation"): 0.3,
    ("osteopenia", "vertebral compression"): 0.2, ("picc", "central venous catheter"): 0.85,
    ("port", "central venous catheter"): 0.8, ("picc", "port"): 0.7,
    ("pulmonary artery catheter", "central venous catheter"): 0.7,
    ("umbilical catheter", "central venous catheter"): 0.5,
    ("endotracheal tube", "tracheostomy"): 0.6, ("sternotomy", "surgical clips"): 0.6,
    ("sternotomy", "prosthetic valve"): 0.4, ("surgical clips", "postsurgical lung"): 0.5,
    ("other device", "pacemaker"): 0.4, ("vascular stent", "surgical clips"): 0.4,
    ("pneumonia", "airway thickening"): 0.3,
    ("pneumoperitoneum", "bowel dilatation"): 0.2, ("hiatal hernia", "mediastinal mass"): 0.5,
    ("hiatal hernia", "diaphragmatic hernia"): 0.5, ("elevated hemidiaphragm", "diaphragmatic hernia"): 0.4,
    ("soft tissue swelling", "mass"): 0.3, ("pulmonary embolism", "opacity"): 0.4, ("scarring", "pneumonia"): 0.25,
}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """Change of significance by age or indication.

    Attributes:
        entities: names of the findings.
        steps: levels up (positive) or down.
        reason: reason and source.
        indication: pattern that the indication must match, or "".
        youngest: lowest age in years.
        oldest: age in years that the patient must be below.
        most: severity up to which the rule holds.
        unless: pattern that the indication must not match.
    """

    entities: tuple[str, ...]
    steps: int
    reason: str
    indication: str = ""
    youngest: float = 0.0
    oldest: float = 200.0
    most: float = 3.0
    unless: str = ""


_HEART_SURGERY: Final = (
    r"cabg|bypass|sternotomy|(?:open[ -]heart|cardiac|heart|cardiothoracic|thoracic|valve|lung|mediastinal) "
    r"(?:surg|replace|repair|transplant|resect)\w*|post[ -]?op\w*|thoracotomy|lobectomy|vats|after (?:\w+ )?surgery|"
    r"s/p (?:\w+ )?surgery|status post (?:\w+ )?(?:surgery|replacement|resection)"
)
_BELLY_SURGERY: Final = r"laparo\w+|abdominal surg\w+|post[ -]?op\w*|colectomy|cholecystectomy|peritoneal dialysis"
_TRAUMA: Final = (
    r"trauma\w*|accident|mvc\b|mva\b|rta\b|motor vehicle|fall\b|fell\b|stab\w*|gunshot|assault\w*|crash|injur\w+|"
    r"collision"
)
INFECTION: Final = r"fever\w*|febrile|cough\w*|pneumonia|infecti\w+|sepsis|septic|sputum|leukocytosis|chills|covid\w*"
_CANCER: Final = r"cancer|carcinoma|malignan\w+|metast\w+|lymphoma|melanoma|sarcoma|neoplas\w+|tumou?r"
_PLACEMENT: Final = (
    r"(?:line|tube|catheter|picc|port|ett|ngt?|og|pacemaker|pacer|icd|dobb?hoff|device|lead)s?\b.{0,25}"
    r"(?:plac\w+|position\w*|insert\w+|check|confirm\w*|advance\w*|reposition\w*)|"
    r"(?:plac\w+|position\w*|insert\w+|confirm\w*|check|reposition\w*)\b.{0,25}"
    r"(?:line|tube|catheter|picc|port|ett|ngt?|og|pacemaker|pacer|icd|device|lead)s?\b|intubation"
)
_LINES: Final = (
    "endotracheal tube", "tracheostomy", "central venous catheter", "picc", "port", "pulmonary artery catheter",
    "enteric tube", "chest tube", "umbilical catheter", "circulatory support",
)  # fmt: skip

CONTEXT: Final[tuple[Rule, ...]] = (
    Rule(("pneumomediastinum", "subcutaneous emphysema"), -3,
         "Air is expected after surgery of the chest (Carter et al. 1983)",
         indication=_HEART_SURGERY),
    Rule(("pneumothorax",), -1, "A small pneumothorax is usual after surgery of the chest (Carter et al. 1983)",
         indication=_HEART_SURGERY, most=1.0),
    Rule(("pneumoperitoneum",), -2, "Free air stays for days after surgery of the abdomen (Gayer et al. 2000)",
         indication=_BELLY_SURGERY),
    Rule(("fracture", "widened mediastinum", "pulmonary contusion", "subcutaneous emphysema", "dislocation"), 1,
         "After trauma these change what is done at once (ATLS, 10th edition)", indication=_TRAUMA),
    Rule(("nodule",), -1, "Fleischner's follow-up begins at 35 years (MacMahon et al. 2017)", oldest=35.0,
         unless=_CANCER),
    Rule(("mediastinal shift", "volume loss", "elevated hemidiaphragm", "opacity", "pleural effusion"), -2,
         "The empty half of the chest fills and shrinks after its lung was removed (Chae et al. 2006)",
         indication=r"pneumonectomy"),
    Rule(("atelectasis", "volume loss", "elevated hemidiaphragm"), -1,
         "The most common change after surgery (Carter et al. 1983)", indication=_HEART_SURGERY),
    Rule(("pleural effusion",), -1, "A small effusion is usual after surgery of the heart (Light et al. 2002)",
         indication=_HEART_SURGERY, most=1.0),
    Rule(("emphysema", "hyperinflation", "flattened diaphragm", "bulla"), -1,
         "The disease is known, and these are its signs (Tomashefski 1977)",
         indication=r"copd|emphysema|chronic obstructive"),
    Rule(("cavity", "tuberculosis"), 1, "Suspected tuberculosis: isolation at once (CDC 2005)",
         indication=r"tb\b|tuberculosis|ppd\b|quantiferon|hemoptysis|night sweats"),
    Rule(("consolidation", "pneumonia", "opacity", "cavity"), 1, "Weak immunity: treatment at once (IDSA 2010)",
         indication=r"neutropeni\w+|immunocompromi\w+|immunosuppress\w+|transplant|chemotherapy|hiv\b|aids\b"),
    Rule(("widened mediastinum", "aortic aneurysm"), 1, "Acute aortic syndrome has to be excluded (ACC/AHA 2022)",
         indication=r"(?:acute |severe |tearing )?(?:chest|back) pain|hypotens\w+|dissection|syncope|shock"),
    Rule(_LINES, 1, "The image was made to see the device (ACR criteria for intensive care, Laroia et al. 2021)",
         indication=_PLACEMENT),
    Rule(("aortic calcification", "tortuous aorta"), 1, "Unusual before 50 years (Allison et al. 2004)", oldest=50.0),
    Rule(("pericardial calcification",), -1, "Usual from 65 years on (Allison et al. 2004)", youngest=65.0),
    Rule(("degenerative spine", "joint degeneration"), 1, "Unusual before 40 years (Brinjikji et al. 2015)",
         oldest=40.0),
    Rule(("osteopenia", "kyphosis"), -1, "Usual from 65 years on (USPSTF screens from that age)", youngest=65.0),
    Rule(("cardiomegaly",), -1,
         "Thymus and expiration widen an infant's shadow, to ratios of 0.74 (Roentgen evidence of normal heart, 1958)",
         oldest=1.0, most=1.0),
)  # fmt: skip
# Lower by a level: the wording itself says that nothing has to be done.
MINOR: Final = 0.5
"""Severity up to which an actionable finding becomes one that is not: trace, minimal, borderline."""
MINOR_MILD: Final = frozenset(("cardiomegaly", "vascular congestion", "widened mediastinum", "hilar enlargement"))
"""Findings for which "mild" is enough for that: two readers often disagree on them."""
OLD: Final = re.compile(r"\b(?:old|remote|chronic|healed|healing|sequela\w*|calcified)\b")
"""Words for a finding of the past; with them a fracture or opacity needs no action."""
OLD_ENTITIES: Final = frozenset(
    ("fracture", "vertebral compression", "opacity", "interstitial opacity", "interstitial lung disease",
     "tuberculosis", "pulmonary contusion", "dislocation", "nodule", "bone lesion", "lymphadenopathy")
)  # fmt: skip
SEVERE_URGENT: Final = frozenset(("pulmonary edema", "pleural effusion", "mediastinal shift"))
"""Findings that are urgent when large (level 3): they impair breathing."""
GROUPED: Final = 0.3
"""Credit above which "A suggestive of B" and "A versus B" are one finding."""
REPEATED: Final = 0.8
"""Credit from which on a further finding of the candidate repeats one of the reference and is no error."""
GRAVE: Final = 0.4
"""Loss from which on an error in a finding is as significant as the finding."""
SLIGHT: Final = 0.1
"""Loss from which on it is one step below; smaller ones are two steps below."""
SAME_IN_INFECTION: Final = frozenset(("consolidation", "opacity", "pneumonia"))
"""Names of one thing where the patient has signs of an infection: the image shows a consolidation, the patient makes it
a pneumonia (Fleischner glossary)."""
