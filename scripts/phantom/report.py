"""Write chest radiograph reports by a small grammar: varied wording, negations, uncertainty, labels per sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .findings import CHEXPERT, DEVICES, Finding

#: kind -> noun phrases without article; {side}, {zone}, {extent} are filled in
_PHRASES: Mapping[str, tuple[str, ...]] = {
    "pleural effusion": ("{extent} {side} pleural effusion", "{extent} {side}-sided pleural effusion"),
    "costophrenic blunting": ("blunting of the {side} costophrenic angle", "{side} costophrenic angle blunting"),
    "pneumothorax": ("{extent} {side} pneumothorax", "{extent} {side} apical pneumothorax with a visible pleural line"),
    "consolidation": (
        "consolidation in the {side} {zone} lung",
        "dense {side} {zone} lung consolidation",
        "airspace consolidation within the {side} {zone} lung zone",
    ),
    "opacity": (
        "hazy opacity in the {side} {zone} lung",
        "patchy {side} {zone} lung opacity",
        "ill-defined opacity within the {side} {zone} lung zone",
    ),
    "nodule": ("{cm} cm nodule in the {side} {zone} lung", "{side} {zone} lung nodule measuring {cm} cm"),
    "mass": ("{cm} cm mass in the {side} {zone} lung", "{side} {zone} lung mass measuring {cm} cm"),
    "atelectasis": ("linear {side} basilar atelectasis", "plate-like atelectasis at the {side} lung base"),
    "rib fracture": ("displaced fracture of a lateral {side} rib", "{side} rib fracture"),
    "pleural thickening": ("{side} pleural thickening", "pleural thickening along the {side} lateral chest wall"),
    "tuberculosis": ("cavitary opacity in the {side} upper lung", "{side} upper lung cavitary opacity"),
    "edema": ("{severity} pulmonary edema", "{severity} interstitial pulmonary edema"),
    "fibrosis": ("bibasilar reticular opacities consistent with fibrosis", "peripheral basilar reticular opacities"),
    "vertebral degeneration": ("degenerative change of the thoracic spine", "multilevel thoracic spondylosis"),
    "chest tube": ("{side} chest tube", "{side}-sided chest tube"),
    "endotracheal tube": ("endotracheal tube with its tip above the carina",),
    "gastric tube": ("enteric tube coursing below the diaphragm", "nasogastric tube ending in the stomach"),
    "central line": ("right internal jugular central venous catheter ending in the SVC",),
    "pacemaker": ("left-sided pacemaker with a lead in the right ventricle", "left chest wall pacemaker"),
}
_PLURAL = frozenset({"fibrosis"})
_MASS_NOUN = frozenset(
    {"costophrenic blunting", "consolidation", "atelectasis", "pleural thickening", "edema", "vertebral degeneration"}
)
_HEART_BIG = (
    "The heart is {severity2} enlarged.",
    "The cardiac silhouette is {severity2} enlarged.",
    "There is {severity} cardiomegaly.",
)
_HEART_NORMAL = (
    "The heart is normal in size.",
    "Heart size is normal.",
    "The cardiac silhouette is not enlarged.",
    "Cardiac silhouette is within normal limits.",
)
_MEDIASTINUM_WIDE = (
    "The mediastinum is widened with an enlarged aortic knob.",
    "There is mediastinal widening due to an enlarged thoracic aorta.",
)
_MEDIASTINUM_NORMAL = ("The mediastinal contours are normal.", "Mediastinal and hilar contours are unremarkable.")
_CLEAR = ("The lungs are clear.", "Lungs are clear and well expanded.", "Both lungs are clear.")


@dataclass(frozen=True)
class Report:
    """The two sections of a report and the labels that their sentences state.

    Attributes:
        findings: the Findings section, sentences separated by a space.
        impression: the Impression section, one statement per line.
        labels: CheXpert name -> 1 stated, 0 denied, -1 uncertain; a name that is not mentioned is missing.
    """

    findings: str
    impression: str
    labels: Mapping[str, int] = field(default_factory=dict)


def _degree(size: float) -> str:
    return ("mild", "moderate", "severe")[min(2, int(size * 3))]


def diameter(finding: Finding) -> float:
    """Diameter in cm of a nodule or a mass: 1.2 to 2.8, 3.4 to 6.4."""
    return round(1.2 + 1.6 * finding.size if finding.kind == "nodule" else 3.4 + 3.0 * finding.size, 1)


def _phrase(rng: np.random.Generator, finding: Finding) -> str:
    return str(rng.choice(_PHRASES[finding.kind])).format(
        side=finding.side, zone=finding.zone, extent=finding.extent, severity=_degree(finding.size),
        cm=diameter(finding) if finding.kind in ("nodule", "mass") else "",
    )  # fmt: skip


def _sentence(rng: np.random.Generator, finding: Finding, phrase: str) -> str:
    countable = finding.kind not in _MASS_NOUN | _PLURAL
    article = "" if not countable else "an " if phrase[0] in "aeiou" else "a "
    verb = "are" if finding.kind in _PLURAL else "is"
    frames = (
        f"There {verb} {article}{phrase}.",
        f"{(article + phrase).capitalize()} {verb} present.",
        f"{(article + phrase).capitalize()} {verb} seen.",
    )
    return _restore(str(rng.choice(frames)))


def _restore(text: str) -> str:
    return text.replace(" svc", " SVC")  # str.capitalize lowers the rest


class _Writer:
    """Collect sentences and the labels that they state; a stated or uncertain label is never overwritten by a 0."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.impression: list[str] = []
        self.labels: dict[str, int] = {}

    def say(self, sentence: str, **labels: int) -> None:
        self.sentences.append(sentence)
        for name, value in labels.items():
            self.label(name.replace("_", " "), value)

    def label(self, name: str, value: int) -> None:
        if value == 1 or self.labels.get(name) in (None, 0):
            self.labels[name] = value


def write_report(rng: np.random.Generator, findings: tuple[Finding, ...]) -> Report:
    """Write the report of a study.

    Only drawn findings are asserted; uncertainty ("may represent") is limited to causes and the smallest effusions.
    The labels follow the CheXpert convention (1, 0, -1, not mentioned) and apply to the whole report.
    """
    w = _Writer()
    kinds = {f.kind for f in findings}
    for finding in findings:
        if finding.kind in DEVICES:
            w.say(_sentence(rng, finding, _phrase(rng, finding)), Support_Devices=1)
    _lungs(rng, w, findings)
    _pleura(rng, w, findings)
    _heart(rng, w, findings)
    _bones(rng, w, findings)
    if not w.impression:
        if kinds - set(DEVICES):
            w.impression.append("No acute cardiopulmonary process.")
        else:
            w.impression.append(
                str(
                    rng.choice(
                        [
                            "No acute cardiopulmonary process.",
                            "No acute cardiopulmonary abnormality.",
                            "Normal chest radiograph." if not kinds else "No acute process.",
                        ]
                    )
                )
            )
    if not any(v != 0 for name, v in w.labels.items() if name not in ("Support Devices", "No Finding")):
        w.labels["No Finding"] = 1
    ordered = {name: w.labels[name] for name in CHEXPERT if name in w.labels}
    return Report(" ".join(w.sentences), "\n".join(w.impression), ordered)


def _lungs(rng: np.random.Generator, w: _Writer, findings: tuple[Finding, ...]) -> None:
    lung_kinds = ("edema", "consolidation", "opacity", "tuberculosis", "nodule", "mass", "atelectasis", "fibrosis")
    here = [f for f in findings if f.kind in lung_kinds]
    for f in here:
        phrase = _phrase(rng, f)
        w.say(_sentence(rng, f, phrase))
        w.label(str(f.label), 1)
        w.impression.append(_restore(phrase.capitalize()) + ".")
        if f.kind in ("consolidation", "opacity") and rng.random() < 0.45:
            if f.kind == "consolidation":
                w.say("This is concerning for pneumonia.", Pneumonia=-1)
            else:
                w.say("This may represent atelectasis or pneumonia.", Pneumonia=-1, Atelectasis=-1)
        if f.kind == "tuberculosis":
            w.say("Tuberculosis should be considered.")
    if not here:
        w.say(str(rng.choice(_CLEAR)))
    kinds = {f.kind for f in here}
    denied = [
        name
        for name, kind, chance in (("focal consolidation", "consolidation", 0.7), ("pulmonary edema", "edema", 0.5))
        if kind not in kinds and rng.random() < chance
    ]
    if "opacity" in kinds or "tuberculosis" in kinds:
        denied = [name for name in denied if name != "focal consolidation"]
    if denied:
        w.say(
            _restore(str(rng.choice(["There is no {}.", "No {}.", "No evidence of {}."])).format(" or ".join(denied)))
        )
        for name in denied:
            w.label({"focal consolidation": "Consolidation", "pulmonary edema": "Edema"}[name], 0)


def _pleura(rng: np.random.Generator, w: _Writer, findings: tuple[Finding, ...]) -> None:
    fluid = [f for f in findings if f.kind == "pleural effusion"]
    air = [f for f in findings if f.kind == "pneumothorax"]
    if len(fluid) == 2 and fluid[0].extent == fluid[1].extent:
        w.say(f"There are {fluid[0].extent} bilateral pleural effusions.", Pleural_Effusion=1)
        w.impression.append(f"{fluid[0].extent.capitalize()} bilateral pleural effusions.")
        fluid_left: list[Finding] = []
    else:
        fluid_left = fluid
    for f in fluid_left:
        phrase = _phrase(rng, f)
        if f.size < 0.2 and len(fluid) == 1 and rng.random() < 0.5:
            w.say(f"Possible {phrase}.", Pleural_Effusion=-1)
            w.impression.append(f"Possible {phrase}.")
        else:
            w.say(_sentence(rng, f, phrase), Pleural_Effusion=1)
            w.impression.append(phrase.capitalize() + ".")
    for f in findings:
        if f.kind == "costophrenic blunting":
            w.say(
                _sentence(rng, f, _phrase(rng, f))[:-1] + ", which may represent a trace pleural effusion.",
                Pleural_Effusion=-1,
            )
        if f.kind == "pleural thickening":
            w.say(_sentence(rng, f, _phrase(rng, f)), Pleural_Other=1)
    for f in air:
        phrase = _phrase(rng, f)
        w.say(_sentence(rng, f, phrase), Pneumothorax=1)
        w.impression.insert(0, phrase.capitalize() + ".")
    blunted = any(f.kind == "costophrenic blunting" for f in findings)
    denied = [] if fluid or blunted else ["pleural effusion"]
    denied += [] if air else ["pneumothorax"]
    denied = [name for name in denied if rng.random() < 0.9]
    if denied:
        joined = str(rng.choice([" or ", " and no "]) if len(denied) == 2 else "").join(denied)
        w.say(str(rng.choice(["There is no {}.", "No {}.", "No {} is seen."])).format(joined))
        for name in denied:
            w.label("Pleural Effusion" if name == "pleural effusion" else "Pneumothorax", 0)


def _heart(rng: np.random.Generator, w: _Writer, findings: tuple[Finding, ...]) -> None:
    big = next((f for f in findings if f.kind == "cardiomegaly"), None)
    wide = any(f.kind == "aortic enlargement" for f in findings)
    if big:
        degree = _degree(big.size)
        adverb = {"mild": "mildly", "moderate": "moderately", "severe": "severely"}[degree]
        w.say(str(rng.choice(_HEART_BIG)).format(severity=degree, severity2=adverb), Cardiomegaly=1)
        w.impression.append(f"{degree.capitalize()} cardiomegaly.")
    elif rng.random() < 0.9:
        w.say(str(rng.choice(_HEART_NORMAL)), Cardiomegaly=0)
    if wide:
        w.say(str(rng.choice(_MEDIASTINUM_WIDE)), Enlarged_Cardiomediastinum=1)
        w.impression.append("Enlarged thoracic aorta.")
    elif rng.random() < 0.6:
        w.say(str(rng.choice(_MEDIASTINUM_NORMAL)), Enlarged_Cardiomediastinum=0)


def _bones(rng: np.random.Generator, w: _Writer, findings: tuple[Finding, ...]) -> None:
    broken = [f for f in findings if f.kind == "rib fracture"]
    for f in broken:
        phrase = _phrase(rng, f)
        w.say(_sentence(rng, f, phrase), Fracture=1)
        w.impression.append(phrase.capitalize() + ".")
    worn = [f for f in findings if f.kind == "vertebral degeneration"]
    for f in worn:
        w.say(_sentence(rng, f, _phrase(rng, f)))
    if not broken and rng.random() < 0.4:
        w.say(str(rng.choice(["No displaced rib fracture.", "No acute rib fracture is seen."])), Fracture=0)
    elif not broken and not worn and rng.random() < 0.5:
        w.say("The osseous structures are intact.")
