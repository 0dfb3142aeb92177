"""Sets of study inputs that a model writes from, and the worth of each input: paired differences between sets."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from encoder.errors import ConfigError, LlavaRadError
from llava_rad.model.templates import KINDS, TEXTS, Study
from metrics.bootstrap import Bootstrap, Difference, corrected

if TYPE_CHECKING:
    from llava_rad.benchmark.task import Case
    from llava_rad.reports.pairs import Context
    from metrics.suite import Model

FRONTAL: Final = KINDS[0]
NAMES: Final = (*KINDS, *TEXTS)
"""Names of all inputs."""


@dataclass(frozen=True)
class InputSet:
    """Inputs that a model is given, where a study has them.

    Attributes:
        names: of :data:`NAMES`, in that order; ``frontal`` is always one of them.
    """

    names: tuple[str, ...] = (FRONTAL,)

    @classmethod
    def parse(cls, text: str) -> InputSet:
        """Read names separated by commas.

        Raises:
            ConfigError: if a name is unknown or comes twice, ``frontal`` is missing, or a prior report has no prior.
        """
        given = [name.strip().lower().replace("-", "_") for name in text.split(",")]
        if odd := [name for name in given if name not in NAMES]:
            raise ConfigError(f"--inputs: there is no input {odd[0]!r}", hint=f"choose from {', '.join(NAMES)}")
        if len(set(given)) < len(given):
            raise ConfigError("--inputs names an input twice")
        if FRONTAL not in given:
            raise ConfigError("--inputs: every report is about a frontal image", hint=f"--inputs frontal,{text}")
        if "prior_report" in given and "prior" not in given:
            raise ConfigError("--inputs: prior_report needs the image that it is about, prior")
        return cls(tuple(name for name in NAMES if name in given))

    @classmethod
    def taken(cls, places: Collection[str], cases: Sequence[Case]) -> InputSet:
        """Return all inputs that a prompt has a place for (``Template.places``), and that a study has."""
        names = [name for name in NAMES[1:] if name.replace("_", "-") in places]
        have = counts(cases) if names else {}
        return cls((FRONTAL, *(name for name in names if have[name][0])))

    @property
    def label(self) -> str:
        """Name in tables."""
        return " + ".join(name.replace("_", " ") for name in self.names)

    def images(self, context: Context) -> list[tuple[str, Path]]:
        """Return kind and path of the further images that a study has."""
        found = ((kind, getattr(context, kind)) for kind in KINDS[1:] if kind in self.names)
        return [(kind, path) for kind, path in found if path is not None]

    def study(self, context: Context, kinds: Collection[str]) -> Study:
        """Return what the model is given.

        Args:
            context: of the study.
            kinds: further images that could be read; a prior report goes with its image.
        """
        texts: dict[str, Any] = {name: getattr(context, name) or None for name in TEXTS if name in self.names}
        if "prior" not in kinds:
            texts.pop("prior_report", None)
        return Study(lateral="lateral" in kinds, prior="prior" in kinds, **texts)

    def given(self, context: Context) -> tuple[str, ...]:
        """Return the inputs of the set that a study has."""
        return given(self.study(context, [kind for kind, _ in self.images(context)]))

    def refused_by(self, places: Collection[str]) -> str | None:
        """Return the first input that a prompt with these places does not take, or None."""
        return next((name for name in self.names[1:] if name.replace("_", "-") not in places), None)


def given(study: Study) -> tuple[str, ...]:
    """Return the names of the inputs of a study, ``frontal`` first."""
    return (FRONTAL, *(name for name in NAMES[1:] if getattr(study, name)))


def check(sets: Sequence[InputSet], models: Mapping[str, Collection[str]], cases: Sequence[Case]) -> None:
    """Check that models take the inputs, and that the data have them.

    Args:
        sets: of one run.
        models: study inputs that each model's prompt takes, as ``Study.used`` spells them, by the model's name.
        cases: of the data.

    Raises:
        ConfigError: if a model's prompt has no place for an input.
        LlavaRadError: if no study of the data has an input.
    """
    for model, places in models.items():
        for one in sets:
            if refused := one.refused_by(places):
                takes = sorted(place.replace("-", "_") for place in {*places} - {"grounded"})
                raise ConfigError(
                    f"--inputs: {model} does not take {refused}",
                    hint=f"it takes {', '.join((FRONTAL, *takes))}",
                )
    have = counts(cases)
    for name in dict.fromkeys(name for one in sets for name in one.names):
        if not have[name][0]:
            raise LlavaRadError(f"--inputs: no study of the data has {name}")


def counts(cases: Sequence[Case]) -> dict[str, tuple[int, int]]:
    """Return the numbers of reports and of studies that have each input; a report without a study counts as one."""
    every = InputSet(NAMES)
    found: dict[str, tuple[int, int]] = {}
    inputs = [every.given(case.context) for case in cases]
    for name in NAMES:
        having = [case for case, names in zip(cases, inputs, strict=True) if name in names]
        found[name] = len(having), len({(case.dataset, case.subject, case.study or case.id) for case in having})
    return found


def digest(inputs: InputSet, cases: Sequence[Case], files: Mapping[Path, str]) -> str:
    """Hash what a set gives of each case besides its frontal image: bytes of images, and texts.

    Args:
        inputs: the set.
        cases: of the data.
        files: SHA-256 of each image.
    """
    whole = hashlib.sha256()
    for case in cases:
        images = inputs.images(case.context)
        study = inputs.study(case.context, [kind for kind, _ in images])
        parts = [case.id, *(f"{kind} {files[path]}" for kind, path in images)]
        for text in (*parts, *(f"{name} {text}" for name, text in study.texts.items())):
            whole.update(len(text.encode()).to_bytes(8, "big") + text.encode())
    return whole.hexdigest()


@dataclass(frozen=True)
class Worth:
    """Worth of inputs: scores with them minus scores without them, by the same model on the same reports.

    Attributes:
        model: name of the model.
        added: inputs that the first set has more than the second.
        to: the second set.
        reports: number of reports that were written with one of these inputs: only these are compared.
        patients: number of their patients.
        differences: by score; p is corrected over all worths of the run.
    """

    model: str
    added: tuple[str, ...]
    to: InputSet
    reports: int
    patients: int
    differences: dict[str, Difference]

    @property
    def label(self) -> str:
        """The added inputs, in words."""
        return " + ".join(name.replace("_", " ") for name in self.added)


@dataclass(frozen=True)
class Written:
    """Reports of one model from one set of inputs.

    Attributes:
        model: name of the model.
        inputs: the set.
        given: for each of N reports the inputs that it was written from; none before the reports are read.
    """

    model: str
    inputs: InputSet
    given: Sequence[Sequence[str]] = ()


def worths(
    written: Mapping[str, Written], scored: Mapping[str, Model], patients: Sequence[str], bootstrap: Bootstrap
) -> list[Worth]:
    """Compare each set of inputs with those of the same model that it contains.

    Args:
        written: by the name of the system.
        scored: scores of the systems.
        patients: of the N reports, "" if unknown.
        bootstrap: by patient.
    """
    import numpy as np

    found: list[Worth] = []
    for small, less in written.items():
        for large, more in written.items():
            if less.model != more.model or not set(less.inputs.names) < set(more.inputs.names):
                continue
            added = tuple(name for name in more.inputs.names if name not in less.inputs.names)
            rows = [row for row, names in enumerate(more.given) if any(name in names for name in added)]
            if not rows:  # their images cannot be read
                found.append(Worth(less.model, added, less.inputs, 0, 0, {}))
                continue
            people, some = bootstrap.patients([patients[row] for row in rows]), np.array(rows)
            table: dict[str, Difference] = {}
            for metric, scores in scored[large].scores.items():
                others = scored[small].scores[metric]
                table |= bootstrap.differences(scores.subset(some), others.subset(some), people)
            found.append(Worth(less.model, added, less.inputs, len(rows), len(people), table))
    tables = corrected([one.differences for one in found])
    return [replace(one, differences=table) for one, table in zip(found, tables, strict=True)]
