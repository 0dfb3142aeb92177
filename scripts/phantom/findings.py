"""Findings of phantoms: the common source of drawings, reports and labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

#: The 14 names in the column order of mimic-cxr-2.0.0-chexpert.csv (MIMIC-CXR-JPG, after subject_id and study_id).
CHEXPERT = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture",
    "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax",
    "Support Devices",
)  # fmt: skip

#: kind -> its CheXpert name (None: not one of the 14)
KINDS: Mapping[str, str | None] = {
    "cardiomegaly": "Cardiomegaly", "aortic enlargement": "Enlarged Cardiomediastinum",
    "pleural effusion": "Pleural Effusion", "costophrenic blunting": "Pleural Effusion",
    "pneumothorax": "Pneumothorax", "consolidation": "Consolidation", "opacity": "Lung Opacity", "edema": "Edema",
    "nodule": "Lung Lesion", "mass": "Lung Lesion", "atelectasis": "Atelectasis", "rib fracture": "Fracture",
    "pleural thickening": "Pleural Other", "fibrosis": "Lung Opacity", "tuberculosis": "Lung Opacity",
    "vertebral degeneration": None, "chest tube": "Support Devices", "endotracheal tube": "Support Devices",
    "gastric tube": "Support Devices", "central line": "Support Devices", "pacemaker": "Support Devices",
}  # fmt: skip
DEVICES = ("chest tube", "endotracheal tube", "gastric tube", "central line", "pacemaker")
AIRSPACE = ("consolidation", "opacity", "tuberculosis")  # RSNA's "lung opacity"

#: probability of each kind in a study that is not normal; per side where the kind has sides
PREVALENCE: Mapping[str, float] = {
    "cardiomegaly": 0.30, "aortic enlargement": 0.10, "pleural effusion": 0.20, "costophrenic blunting": 0.05,
    "pneumothorax": 0.09, "consolidation": 0.12, "opacity": 0.12, "edema": 0.13, "nodule": 0.07, "mass": 0.05,
    "atelectasis": 0.13, "rib fracture": 0.06, "pleural thickening": 0.05, "fibrosis": 0.06, "tuberculosis": 0.04,
    "vertebral degeneration": 0.12, "chest tube": 0.02, "endotracheal tube": 0.08, "gastric tube": 0.08,
    "central line": 0.10, "pacemaker": 0.07,
}  # fmt: skip
SIDED = frozenset(
    {
        "pleural effusion", "costophrenic blunting", "pneumothorax", "consolidation", "opacity", "nodule", "mass",
        "atelectasis", "rib fracture", "pleural thickening", "tuberculosis", "chest tube",
    }
)  # fmt: skip
ZONED: Mapping[str, tuple[str, ...]] = {
    "consolidation": ("upper", "mid", "lower"), "opacity": ("upper", "mid", "lower"), "nodule": ("upper", "mid"),
    "mass": ("upper", "mid", "lower"), "tuberculosis": ("upper",), "atelectasis": ("lower",),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One abnormality or device.

    Attributes:
        kind: a key of KINDS.
        side: the patient's "left" or "right"; "" where the kind has no side.
        zone: "upper", "mid" or "lower" lung zone; "" where it has none.
        size: 0 (smallest that is still visible) to 1.
    """

    kind: str
    side: str = ""
    zone: str = ""
    size: float = 0.5

    @property
    def extent(self) -> str:
        """The size in words: small, moderate or large."""
        return ("small", "moderate", "large")[min(2, int(self.size * 3))]

    @property
    def label(self) -> str | None:
        """The CheXpert name of this kind."""
        return KINDS[self.kind]


def only(kinds: Collection[str]) -> dict[str, float]:
    """Prevalence in a data set with only some kinds of findings, each in about a third of its studies."""
    return {kind: (0.18 if kind in SIDED else 0.33) if kind in kinds else 0.0 for kind in KINDS}


def sample_findings(
    rng: np.random.Generator, *, normal: float = 0.3, prevalence: Mapping[str, float] | None = None
) -> tuple[Finding, ...]:
    """Draw the findings of one study.

    Args:
        rng: random generator.
        normal: probability of no finding at all.
        prevalence: replaces entries of PREVALENCE for a data set that selects its patients.

    Returns:
        Findings in the order of KINDS; one zone of one lung never holds two kinds, and a side has either an effusion
        or a pneumothorax, so that every picture has one reading.
    """
    probability = {**PREVALENCE, **(prevalence or {})}
    if rng.random() < normal:
        return ()
    found: list[Finding] = []
    taken: set[tuple[str, str]] = set()
    for kind in KINDS:
        for side in ("right", "left") if kind in SIDED else ("",):
            present, size = rng.random() < probability[kind], float(rng.random())
            zone = str(rng.choice(ZONED[kind])) if kind in ZONED else ""
            wet = any(f.side == side and f.kind in ("pleural effusion", "pneumothorax") for f in found)
            if kind == "chest tube" and wet:
                present = present or rng.random() < 0.4
            if kind in ("costophrenic blunting", "pneumothorax", "pleural thickening") and wet:
                present = False
            if (side, zone) in taken and zone:
                present = False
            if zone == "lower" and any(f.kind == "pleural effusion" and f.side == side and f.size > 0.3 for f in found):
                present = False  # the fluid would hide it
            if zone and any(f.kind == "pneumothorax" and f.side == side for f in found):
                present = present and zone != "upper"
            if present:
                found.append(Finding(kind, side, zone, size))
                taken.add((side, zone))
    return tuple(found)
