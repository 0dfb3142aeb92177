"""Phrases of each observation.

They were written for this project, after the classes and phrase lists of the CheXpert labeler (Irvin et al. 2019, MIT).
All patterns are for lower-cased text, have no nested repetition, and span at most 40 characters between two words.
"""

from __future__ import annotations

from typing import Final

from metrics.rules.cues import HARD_TO_JUDGE

VERSION: Final = "rules-3"

_GAP = r"(?:(?!\b(?:not|no longer) (?:\w+ly )?normal)[^.;:]){0,40}?"
_DEGREE = (
    r"(?:(?!previous|former|earlier)\w+ly(?:-to-\w+ly)?|to|borderline|upper|limits|normal|somewhat|top|at least|"
    r"(?:mild|moderate|severe)(?:-to-\w+)?|stable|still|very|in|and|but|or)"
)
_LARGE = r"\b(?:enlarged|enlargement|large|increased|prominent|prominence|big|dilated|widened|widening)"
_HEART = r"(?:heart|cardiac|cardiopericardial|cardiomediastinal|cardio mediastinal|cardiothoracic)"
_HEART_SIZE = (
    rf"(?:{_HEART}(?: and mediastin\w+)?"
    r"(?:[- ](?:size|silhouettes?|contours?|shadows?|diameter|enlargement|ratio))?|heart)"
)
_NORMAL = (
    r"(?:normal|unremarkable|within (?:the )?(?:upper )?limits|not (?:\w+ly )?(?:enlarged|dilated|widened)|"
    r"top[- ]normal)"
)

# A mention affirms its class unless a cue says otherwise.
MENTIONS: Final[dict[str, tuple[str, ...]]] = {
    "Enlarged Cardiomediastinum": (
        r"\b(?:wide\w*|enlarge\w*|prominen\w*|abnormal)[^.;:,]{0,20}? mediastin\w+",
        r"mediastin\w+(?: (?:is|are|appears?|remains?|silhouette|contours?|slightly|mildly|again|markedly))* "
        r"(?:enlarged|widened|wide|prominent|prominence|widening|enlargement)",
        r"(?:cardiomediastinal|cardio mediastinal) (?:silhouette|contours?)(?: (?:is|are|appears?|remains?|size|"
        r"slightly|"
        r"mildly|moderately|stably|again|markedly))* (?:enlarged|widened|prominent|enlargement)",
        r"enlarge\w* (?:of )?(?:the )?cardiomediastinal",
        rf"mediastin\w+(?: (?:contours?|silhouette|width))?(?: (?:is|are|was))? (?:{HARD_TO_JUDGE})",
    ),
    "Cardiomegaly": (
        r"cardiomegaly",
        rf"{_HEART_SIZE}(?::| [\u2013-])?(?:,? (?:which|is|are|was|appears?|remains?|to be|size|of|the|shadow|"
        rf"silhouette|again|at|also|has|been))*"
        rf"(?: {_DEGREE})* {_LARGE}\b",
        rf"{_HEART}(?: size)?(?: (?:is|was|appears?|remains?))? (?:\w+ly )?(?:abnormal in size|not normal)\b",
        rf"{_HEART} size(?: (?:is|was|appears?|remains?))? (?:\w+ly )?abnormal",
        rf"{_LARGE}(?: (?:of|the|stable|size|in|appearance|cardiac|heart))*? {_HEART}",
        r"(?:heart|cardiac)[^.;:,]{0,25}? (?:slightly|mildly|moderately|borderline) (?:large|prominent)",
        r"cardiac enlargement",
        rf"{_HEART_SIZE}(?: (?:is|are|was))? (?:{HARD_TO_JUDGE})",
        rf"(?:assessment|evaluation) of (?:the )?{_HEART_SIZE} (?:is|was) (?:\w+ )?limited",
    ),
    "Lung Opacity": (
        r"\bopaci\w+",
        r"\bair[- ]?space (?:disease|process|consolidation)",
        r"\binfiltrat\w+",
        r"\bincreased (?:lung |pulmonary |interstitial |retrocardiac )?(?:density|densities|attenuation)",
        r"\bhaz(?:y|iness)\b",
        r"\binterstitial (?:lung )?(?:disease|marking\w*|pattern|prominence|change\w*|thickening|process|infiltrat\w+|"
        r"densit\w+|abnormalit\w+)",
        r"\b(?:prominent|prominence of the|increased|coarse\w*) (?:\w+ )?interstiti\w+",
        r"\breticul\w+",
        r"\bground[- ]glass",
        r"\bperibronchial (?:cuffing|thickening)",
        r"\b(?:patchy|streaky|linear|round|rounded|ill-defined|hazy|bibasilar|basilar|bandlike|band-like|focal|retrocardiac|"
        r"perihilar) (?:\w+ )?densit\w+",
        r"\bwhite[- ]?out",
    ),
    "Lung Lesion": (
        r"\bnodul\w+",
        r"\bmass(?:es)?\b",
        r"\bmass[- ]?like",
        r"\bcavitary lesion\w*",
        r"\bcavitation",
        r"\b(?:lung|pulmonary|bronchogenic|known|primary) (?:cancer|carcinoma|neoplasm|malignancy)",
        r"\bcarcinoma",
        r"\bneoplas\w+",
        r"\btumou?rs?\b",
        r"\bmetasta\w+",
        r"\blesions?\b",
    ),
    "Edema": (
        r"\b(?:o?edema)\w*",
        r"\bheart failure",
        r"\bchf\b",
        r"\b(?:vascular|pulmonary|venous|pulmonary vascular|interstitial) congestion",
        r"\bcongestive (?:changes|failure)",
        r"\bfluid overload",
        r"\bkerley",
    ),
    "Consolidation": (r"\bconsolidat\w+",),
    "Pneumonia": (
        r"\bpneumoni\w+",
        r"\bbronchopneumoni\w+",
        r"\binfection\w*",
        r"\binfectious (?:process|etiolog\w+|infiltrat\w+|disease|change\w*)",
    ),
    "Atelectasis": (
        r"\batelecta\w+",
        r"\bsubsegmental (?:\w+ )?collapse",
        r"\b(?:lung|lobe|lobar|partial|segmental|complete) collapse",
        r"\bcollapse of",
        r"\b(?:lungs?|lobes?|lingula)(?: (?:is|are|has|have|appears?|remains?|now|partially|completely))* collapsed",
        r"\bcollapsed (?:\w+ )?(?:\w+ )?(?:lung|lobe|lingula)",
        r"\bvolume loss",
        r"\bloss of volume",
    ),
    "Pneumothorax": (r"\bpneumothora\w+", r"\bhydropneumothora\w+"),
    "Pleural Effusion": (
        r"\beffusions?\b",
        r"\bpleural fluid",
        r"\bfluid (?:in|within) (?:the )?(?:\w+ )?(?:fissures?|pleural space)",
        r"\bhydropneumothora\w+",
        r"\bhydrothora\w+",
        r"\bhemothora\w+",
    ),
    "Pleural Other": (
        r"\bpleural?(?: and parenchymal|[- ]parenchymal| based)? (?:\w+ )?(?:thickening|scar\w*|plaques?|fibrosis|"
        r"calcifi\w+|reaction)",
        r"\bpleuro-?parenchymal (?:scar\w*|thickening)",
        r"\bpleuropericardial scar\w*",
        r"\b(?:apical|biapical|apico) (?:pleural )?(?:cap\w*|thickening)",
        r"\bthickening of the (?:\w+ )?(?:pleura|fissures?)",
        r"\bfissural thickening",
        r"\bfibrothorax",
    ),
    "Fracture": (r"\bfractur\w+", r"\bcompression deformit\w+"),
    "Support Devices": (
        r"\bpace ?makers?\b",
        r"\bpacer\b",
        r"\bpacing\b",
        r"\bdefibrillator\w*",
        r"\b(?:aicd|icd|picc|ngt|ett|et|ng|dobbhoff)\b",
        r"\bcatheters?\b",
        r"\bport[- ]?a?[- ]?cath\w*",
        r"\bmedi ?port\w*",
        r"\bchest port\b",
        r"\b(?:central|venous|jugular|subclavian|arterial|swan\S*|ij|dialysis|support|monitor\w*) lines?\b",
        r"\blines? (?:placement|insertion|tip|terminat\w+)",
        r"\b(?:endotracheal|nasogastric|orogastric|enteric|feeding|chest|tracheostomy|gastric|thoracostomy|"
        r"pigtail|drainage|support|pleural) (?:tubes?|drains?|catheters?|devices?)\b",
        r"\btracheostomy\b",
        r"\btubes?\b",
        r"\bstents?\b",
        r"\b(?:prosthe\w+|artificial|mechanical|replacement|valve) (?:\w+ )?(?:valves?|replacement)\b",
        r"\bvalves?\b",
        r"\bhardware\b",
        r"\bleads?\b",
        r"\belectrodes?\b",
        r"\bstimulator\w*",
        r"\bscrews?\b",
        r"\brods?\b",
        r"\barthroplast\w+",
        r"\bprosthes\w+",
        r"\bimplant\w*",
        r"\bcoils?\b",
        r"\bfilter\b",
        r"\bdrains?\b",
        r"\bdevices?\b",
        r"\bballoon pump",
        r"\bfixation\b",
        r"\banchors?\b",
    ),
}

# Phrases that resemble a mention and are none.
NOT_MENTIONS: Final[dict[str, tuple[str, ...]]] = {
    "Lung Opacity": (
        r"radio-?opaci\w+ (?:foreign|device|marker)",
        r"opacif\w+ of the (?:stomach|bowel)",
        r"calcified (?:\w+ )?opaci\w+",
        r"calcifi\w+ opacit\w+",
    ),
    "Lung Lesion": (
        r"(?:calcified|calcific|granulomatous|thyroid|densely calcified) (?:\w+ )?(?:\w+ )?(?:nodul\w+|mass\w*|"
        r"lesions?)",
        r"nipple[^.;]{0,20}?nodul\w+",
        r"(?:osseous|bony|bone|sclerotic|lytic|blastic|rib|vertebral|skeletal) (?:\w+ )?(?:lesions?|metasta\w+)",
        r"mass effect",
        r"body mass",
        r"masses? or (?:adenopathy|lymphadenopathy)",
    ),
    "Pleural Effusion": (r"pericardial (?:\w+ )?effusions?", r"joint effusions?"),
    "Pneumonia": (
        r"pneumoniti\w+",
        r"granulomatous (?:infection|process)",
        r"(?:prior|old|previous|remote) (?:\w+ )?infection",
    ),
    "Pneumothorax": (r"pneumothorax protocol",),
    "Edema": (r"(?:soft tissue|subcutaneous|peripheral|ankle|leg|lower extremity) edema",),
    "Support Devices": (r"valve (?:calcif|annul)\w+", r"leads? to", r"tube (?:current|voltage)"),
    "Fracture": (
        r"fractures? may not be",
        r"(?:screw|lead|wire|catheter|rod)s?(?: \w+){0,2} fractur\w+",
        r"fractur\w+(?: \w+){0,5} (?:screws?|leads?|wires?|catheter|rods?|tips?)\b",
    ),
}

# Sentences that deny a class without naming it.
ABSENCES: Final[dict[str, tuple[str, ...]]] = {
    "Cardiomegaly": (
        rf"{_HEART_SIZE}:?{_GAP} {_NORMAL}",
        rf"(?:normal|unremarkable)(?: in)?(?: size(?:d)?)?(?: of| and contour of)?(?: the)? {_HEART}",
        rf"normal (?:size )?(?:of )?(?:the )?{_HEART}",
    ),
    "Support Devices": (r"\b(?:extubat|decannulat)\w+",),
    "Enlarged Cardiomediastinum": (
        rf"mediastin\w+:?{_GAP} {_NORMAL}",
        rf"cardio ?mediastinal{_GAP} {_NORMAL}",
        r"(?:normal|unremarkable) (?:\w+ )?(?:cardio ?)?mediastin\w+",
    ),
}

# Findings outside the classes: a report that affirms one of them is not without findings.
OTHER_FINDINGS: Final = (
    r"\bemphysem\w+",
    r"\bcopd\b",
    r"\bobstructive\b",
    r"\bblunt\w+",
    r"\bhyper-?(?:inflat|expan|lucen|aerat|disten)\w+",
    r"\bscoliosis\b",
    r"\bkypho\w+",
    r"\bdegenerat\w+",
    r"\bosteophyt\w*",
    r"\bspondyl\w+",
    r"\bspurring\b",
    r"\bcalcifi\w+",
    r"\bcalcified\b",
    r"\bgranuloma\w*",
    r"\bherni\w+",
    r"\bplaques?\b",
    r"\bthicken\w+",
    r"\bscar\w*",
    r"\bfibro\w+",
    r"\beventration\b",
    r"\belevat\w+",
    r"\bflatten\w+",
    r"\bbull(?:a|ae|ous)\b",
    r"\bcyst\w*",
    r"\bbronchiect\w+",
    r"\bbronchitis\b",
    r"\basthma\b",
    r"\bosteop\w+",
    r"\bdemineral\w+",
    r"\batheroscler\w+",
    r"\btortu\w+",
    r"\bectas\w+",
    r"\bectatic\b",
    r"\buncoil\w*",
    r"\bunfold\w*",
    r"\baneurysm\w*",
    r"\bdeformit\w+",
    r"\bdextro\w+",
    r"\blevo\w+",
    r"\bpneumomediastin\w+",
    r"\bpneumoperiton\w+",
    r"\bfree air\b",
    r"\blow lung volumes?\b",
    r"\bhypoinflat\w+",
    r"\bhypoventilat\w+",
    r"\bprominen\w+",
    r"\benlarg\w+",
    r"\badenopathy\b",
    r"\blymphadenopathy\b",
    r"\bsclero\w+",
    r"\bsubluxation\b",
    r"\barthr\w+",
    r"\bcontusion\b",
    r"\bhematoma\b",
    r"\bhemorrhage\b",
    r"\bforeign bod\w+",
    r"\bbullets?\b",
    r"\bpostoperative\b",
    r"\bpostsurgical\b",
    r"\bpost(?:-| )?(?:surgical|operative)\b",
    r"\bsternotomy\b",
    r"\bclips?\b",
    r"\bmastectomy\b",
    r"\bcholecystectomy\b",
    r"\bresection\b",
    r"\bcrowding\b",
    r"\baspiration\b",
    r"\bcuffing\b",
    r"\bdensit\w+",
    r"\bbronchovascular markings\b",
    r"\binterstitial\b",
    r"\bborderline\b",
    r"\bwedg\w+",
    r"\bheight loss\b",
    r"\bfusion\b",
    r"\brotat\w+ (?:scoliosis|deformity)",
)
