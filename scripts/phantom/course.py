"""Patients over time: studies whose findings appear, grow, shrink, resolve and stay, written as MIMIC-CXR.

Four findings have a course. A consolidation behind the heart comes and goes by itself and is drawn on the lateral
alone. A question of the indication is answered. Every statement has one wording, so that a small model learns to see
rather than to vary, and so that :mod:`scripts.phantom.statements` reads reports without doubt.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from .cohort import Study
from .files import write_csv, write_text
from .findings import Finding
from .layouts.mimic_cxr import METADATA, dicom_id, metadata_row, study_id, subject_id, wrapped, write_view
from .patient import Patient, generator, sample_patient
from .radiograph import Phantom, View, phantom_radiograph
from .report import Report

ABSENT, SMALL, LARGE = range(3)
"""Extents of a finding with a course; large ones have three times the height, or twice the area, of small ones."""
EXTENTS = ("No", "Small", "Large")
CHANGES: Mapping[str, str] = {
    "new": "is new",
    "increased": "has increased",
    "decreased": "has decreased",
    "resolved": "has resolved",
    "unchanged": "is unchanged",
}
"""Change since the prior -> its words."""
BEHIND, NOT_BEHIND = "Retrocardiac consolidation.", "No retrocardiac consolidation."
_BEHIND = tuple(Finding("consolidation", side, "mid", 1.0) for side in ("right", "left"))  # densities add up
QUESTIONS: Mapping[str, tuple[str, str]] = {
    "Fall, evaluate for rib fracture.": ("No rib fracture.", ""),
    "Chest pain, evaluate for pneumothorax.": ("No pneumothorax.", ""),
    "Cough and fever, evaluate for pneumonia.": ("No evidence of pneumonia.", "Concerning for pneumonia."),
    "Weight loss, evaluate for lymphadenopathy.": ("No lymphadenopathy.", ""),
    "Positive skin test, evaluate for tuberculosis.": ("No evidence of tuberculosis.", ""),
}
"""Indication -> its answer, and its answer where an upper lung has a consolidation, if that is another."""
# from absent, small and large to the same three: what is there stays, changes its size or resolves
_NEXT = np.array([[0.70, 0.15, 0.15], [0.35, 0.30, 0.35], [0.35, 0.35, 0.30]])
_FIRST = np.array([0.5, 0.25, 0.25])
_HIDDEN, _LATERAL, _INDICATION = 0.4, 0.85, 0.9
"""Shares of studies with the consolidation behind the heart, a lateral, an indication."""
_SPLIT_COLUMNS = ("dicom_id", "study_id", "subject_id", "split")


@dataclass(frozen=True)
class Slot:
    """A finding with a course.

    Attributes:
        kind, side, zone: of the drawn finding.
        name: in reports.
        sizes: ranges of ``Finding.size`` of small and large ones.
    """

    kind: str
    side: str
    zone: str
    name: str
    sizes: tuple[tuple[float, float], tuple[float, float]]

    def drawn(self, extent: int, rng: np.random.Generator) -> Finding:
        """Return the finding of an extent."""
        return Finding(self.kind, self.side, self.zone, float(rng.uniform(*self.sizes[extent - 1])))


SLOTS = tuple(
    Slot(kind, side, zone, f"{side} {name}", sizes)
    for kind, zone, name, sizes in (
        ("pleural effusion", "", "pleural effusion", ((0.0, 0.1), (0.8, 1.0))),  # 3 to 4, 12 to 14 cm high
        ("consolidation", "upper", "upper lung consolidation", ((0.0, 0.1), (0.9, 1.0))),  # radius 2.6, 4.2 cm
    )
    for side in ("right", "left")
)


@dataclass(frozen=True)
class CourseStudy(Study):
    """One examination of a patient who has several.

    Attributes:
        extents: of each of SLOTS.
        hidden: findings that laterals alone show.
        indication: "" for none.
        day: of the study.
    """

    extents: tuple[int, ...]
    hidden: tuple[Finding, ...]
    indication: str
    day: date

    def image(self, index: int, size: int | tuple[int, int], *, square: bool = True) -> Phantom:
        """Draw the image of view ``index``."""
        view = self.views[index]
        shown = self.findings + (self.hidden if view == "LATERAL" else ())
        return phantom_radiograph(
            f"{self.key}/{index}", shown, size, view=view, patient=self.patient, report=self.report, square=square
        )


def change(before: int, now: int) -> str | None:
    """Return the change between two extents, a key of CHANGES; None if there was and is nothing."""
    if not before and not now:
        return None
    if not before:
        return "new"
    if not now:
        return "resolved"
    return "unchanged" if before == now else "increased" if now > before else "decreased"


def findings_text(extents: Sequence[int], before: Sequence[int] | None, behind: bool | None, indication: str) -> str:
    """Write the Findings of a study.

    Args:
        extents: of SLOTS.
        before: those of the prior; None for a first study.
        behind: whether there is a consolidation behind the heart; None without a lateral, which alone can show it.
        indication: a key of QUESTIONS, or "".
    """
    said: list[str] = []
    for slot, old, new in zip(SLOTS, before or extents, extents, strict=True):
        said.append(f"{EXTENTS[new]} {slot.name}.")
        word = None if before is None else change(old, new)
        if word is not None:
            said.append(f"It {CHANGES[word]}.")
    if behind is not None:
        said.append(BEHIND if behind else NOT_BEHIND)
    if indication:
        usual, other = QUESTIONS[indication]
        dense = any(extent and slot.kind == "consolidation" for slot, extent in zip(SLOTS, extents, strict=True))
        said.append(other if other and dense else usual)
    return " ".join(said)


def courses(patients: int, seed: int, *, test: float = 0.12) -> Iterator[CourseStudy]:
    """Yield the studies of patients, two to four each, those of a patient in their order.

    Args:
        patients: number of them.
        seed: of all random choices.
        test: share of the patients in the split ``test``, at least one; the others are in ``train``.
    """
    order = generator("course splits", seed).permutation(patients)
    tested = {int(subject) for subject in order[: max(1, round(test * patients))]}
    number = 0
    for subject in range(patients):
        patient = sample_patient(seed, "course", subject)
        rng = generator("course", seed, subject)
        day = date(2150, 1, 1) + timedelta(days=int(rng.integers(0, 3650)))
        before: tuple[int, ...] | None = None
        for _ in range(int(rng.integers(2, 5))):
            study = _study(rng, patient, before, day, number, subject, f"{seed}/course/{number}", subject in tested)
            yield study
            before, day, number = study.extents, day + timedelta(days=int(rng.integers(2, 90))), number + 1


def _study(
    rng: np.random.Generator,
    patient: Patient,
    before: tuple[int, ...] | None,
    day: date,
    number: int,
    subject: int,
    key: str,
    tested: bool,
) -> CourseStudy:
    chances = [_FIRST] * len(SLOTS) if before is None else [_NEXT[extent] for extent in before]
    extents = tuple(int(rng.choice(3, p=p)) for p in chances)
    findings = [slot.drawn(extent, rng) for slot, extent in zip(SLOTS, extents, strict=True) if extent]
    behind = bool(rng.random() < _HIDDEN)
    views: tuple[View, ...] = ("PA", "LATERAL") if rng.random() < _LATERAL else ("PA",)
    indication = str(rng.choice(list(QUESTIONS))) if rng.random() < _INDICATION else ""
    text = findings_text(extents, before, behind if len(views) > 1 else None, indication)
    return CourseStudy(
        key=key, number=number, subject=subject, split="test" if tested else "train", patient=patient,
        findings=tuple(findings), report=Report(text, ""), views=views, extents=extents,
        hidden=_BEHIND if behind else (), indication=indication, day=day,
    )  # fmt: skip


def write(out: Path, patients: int, size: int, seed: int = 0) -> int:
    """Write ``mimic-cxr/`` (DICOM files and reports) and ``mimic-cxr-jpg/`` (tables), all or nothing.

    Args:
        out: folder that does not exist.
        patients: number of them.
        size: height and width of the images in pixels.
        seed: the same arguments give the same bytes.

    Returns:
        Number of studies.
    """
    work = out.parent / f".{out.name}.{os.getpid()}.part"
    try:
        number = _write(work, patients, size, seed)
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return number


def _write(out: Path, patients: int, size: int, seed: int) -> int:
    cxr, jpg = out / "mimic-cxr", out / "mimic-cxr-jpg"
    metadata: list[list[Any]] = []
    split: list[list[Any]] = []
    studies = list(courses(patients, seed))
    for study in studies:
        subject, own = subject_id(study, seed), study_id(study, seed)
        folder = f"files/p{str(subject)[:2]}/p{subject}"
        write_text(cxr / folder / f"s{own}.txt", _report_file(study))
        procedure = "CHEST (PA AND LAT)" if len(study.views) > 1 else "CHEST (PA)"
        day = f"{study.day:%Y%m%d}"
        for index in range(len(study.views)):
            name, phantom = dicom_id(study, index), study.image(index, size)
            write_view(cxr / folder / f"s{own}" / f"{name}.dcm", phantom, study, name, subject, day, procedure)
            metadata.append(metadata_row(phantom, name, subject, own, procedure, day, "120000.000", "Erect"))
            split.append([name, own, subject, study.split])
    write_csv(jpg / "mimic-cxr-2.0.0-metadata.csv.gz", METADATA, metadata)
    write_csv(jpg / "mimic-cxr-2.0.0-split.csv.gz", _SPLIT_COLUMNS, split)
    return len(studies)


def _report_file(study: CourseStudy) -> str:
    lines = [" " * 33 + "FINAL REPORT", " EXAMINATION:  CHEST", " "]
    if study.indication:
        lines += [f" INDICATION:  {study.indication}", " "]
    return "\n".join([*lines, " FINDINGS: ", " ", *wrapped(study.report.findings)]) + "\n"
