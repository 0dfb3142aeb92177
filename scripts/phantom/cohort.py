"""Patients, their studies and the images of a study, all from one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .files import Truth
from .findings import Finding, only, sample_findings
from .patient import Patient, generator, sample_patient
from .radiograph import Phantom, View, phantom_radiograph
from .report import Report, write_report

#: choices of the images of a study with their probabilities
Views = Sequence[tuple[tuple[View, ...], float]]


@dataclass(frozen=True)
class Request:
    """Request of a user: output folder, number of studies, image size, seed.

    Attributes:
        only: findings that occur, each in about a third of the studies; None is every kind at its usual frequency.
    """

    out: Path
    studies: int
    size: int
    seed: int
    truth: Truth
    only: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Layout:
    """One public data set: its folder below OUT, its title, and the function that writes it."""

    folder: str
    title: str
    write: Callable[[Request], None]


@dataclass(frozen=True)
class Study:
    """One examination.

    Attributes:
        key: unique; the seed of its pictures.
        number: 0, 1, ... over all studies of the data set.
        subject: 0, 1, ... over all patients.
        split: train, validate or test; the same for all studies of a patient.
    """

    key: str
    number: int
    subject: int
    split: str
    patient: Patient
    findings: tuple[Finding, ...]
    report: Report
    views: tuple[View, ...]

    @property
    def rng(self) -> np.random.Generator:
        """New generator for the administrative details of this study."""
        return generator("clerk", self.key)

    def image(self, index: int, size: int | tuple[int, int], *, square: bool = True) -> Phantom:
        """Draw the image of view `index`."""
        return phantom_radiograph(
            f"{self.key}/{index}", self.findings, size, view=self.views[index], patient=self.patient,
            report=self.report, square=square,
        )  # fmt: skip


def studies(
    request: Request,
    name: str,
    *,
    views: Views,
    repeat: float = 0.0,
    normal: float = 0.3,
    prevalence: Mapping[str, float] | None = None,
    shares: tuple[float, float] = (0.75, 0.10),
) -> Iterator[Study]:
    """Yield the studies of a data set.

    Args:
        request: number and seed.
        name: of the data set; data sets with different names share no patients.
        views: choices of the images of a study, with probabilities.
        repeat: chance that a study is followed by another one of the same patient.
        normal, prevalence: see sample_findings.
        shares: of the patients in train and validate; the rest is test. Three patients or more fill all three.
    """
    if request.only is not None:
        prevalence = only(request.only)
    rng = generator("cohort", request.seed, name)
    sizes: list[int] = []
    while sum(sizes) < request.studies:
        size = 1
        while rng.random() < repeat and size < 4:
            size += 1
        sizes.append(min(size, request.studies - sum(sizes)))
    subjects = len(sizes)
    train = max(1, min(round(shares[0] * subjects), subjects - 2))
    validate = max(1, round(shares[1] * subjects)) if subjects > 1 else 0
    order = rng.permutation(subjects)
    splits = {
        int(s): "train" if i < train else "validate" if i < train + validate else "test" for i, s in enumerate(order)
    }
    number = 0
    for subject, size in enumerate(sizes):
        patient = sample_patient(request.seed, name, subject)
        for _ in range(size):
            key = f"{request.seed}/{name}/{number}"
            findings = sample_findings(generator("findings", key), normal=normal, prevalence=prevalence)
            report = write_report(generator("report", key), findings)
            chosen = int(generator("views", key).choice(len(views), p=[share for _, share in views]))
            yield Study(key, number, subject, splits[subject], patient, findings, report, views[chosen][0])
            number += 1
