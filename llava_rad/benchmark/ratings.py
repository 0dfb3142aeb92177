"""Ratings of generated reports by people, in the forms of RadPref and ReXVal or as a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from encoder.datasets.values import is_nothing, label_of
from encoder.json_files import read_json
from llava_rad.benchmark.tables import Row, context_of, lookup, read_rows, scored_part
from metrics.base import InputError
from metrics.suite import Pairs

REXVAL: Final = ("50_samples_gt_and_candidates.csv", "6_valid_raters_per_rater_error_categories.csv")
"""Files of ReXVal (https://physionet.org/content/rexval-dataset/1.0.0/): reports, and errors by rater."""
_STUDY: Final = ("study", "study_id", "case", "id")


@dataclass(frozen=True)
class Ratings:
    """Rated reports.

    Attributes:
        pairs: candidates and references; a study is what :class:`metrics.suite.Pairs` calls a patient.
        ratings: numbers of each report by name, the higher the better.
        form: name of the form.
    """

    pairs: Pairs
    ratings: dict[str, list[float]]
    form: str


@dataclass
class _Rows:
    """Rated reports as they are read."""

    studies: list[str] = field(default_factory=list)
    candidates: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    ratings: dict[str, list[float]] = field(default_factory=dict)

    def add(self, study: str, candidate: str, reference: str, row: Row, ratings: Mapping[str, float]) -> None:
        self.studies.append(study)
        self.candidates.append(scored_part(candidate)[0])
        self.references.append(scored_part(reference)[0])
        self.rows.append(row)
        for name, value in ratings.items():
            self.ratings.setdefault(name, []).append(value)

    def done(self, form: str) -> Ratings:
        ids = [str(number) for number in range(1, len(self.studies) + 1)]
        context = context_of([self.rows])
        return Ratings(Pairs(ids, self.candidates, self.references, {}, self.studies, context), self.ratings, form)


def read_ratings(path: Path) -> Ratings:
    """Read rated reports.

    Args:
        path: RadPref's JSON (studies with ``ground_truth_report``, ``C1_report``, ... and ``raters``); the folder of
            ReXVal, or one of its two files with the other beside it; or a table with the columns ``study``,
            ``reference``, ``candidate`` and ``rating``.

    Raises:
        InputError: if the file cannot be read or has another form. Messages name rows by number.
    """
    if path.is_dir() or path.name in REXVAL:
        return _rexval(path if path.is_dir() else path.parent)
    if path.suffix.lower() == ".json" and (studies := _radpref_studies(path)) is not None:
        return _radpref(studies, path.name)
    return _table(path)


def _radpref_studies(path: Path) -> list[Any] | None:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} cannot be read as JSON ({type(error).__name__})") from None
    studies = list(content.values()) if isinstance(content, dict) else content
    known = isinstance(studies, list) and studies and isinstance(studies[0], dict) and "raters" in studies[0]
    return studies if known else None


def _radpref(studies: Sequence[Any], name: str) -> Ratings:
    found = _Rows()
    for number, study in enumerate(studies, 1):
        where = f"{name}, study {number}"
        if not isinstance(study, dict) or not isinstance(reference := study.get("ground_truth_report"), str):
            raise InputError(f"{where}: no ground_truth_report")
        labels = [key[: -len("_report")] for key in study if re.fullmatch(r"C\d+_report", key)]
        raters = study.get("raters")
        if not labels or not isinstance(raters, list) or not raters:
            raise InputError(f"{where}: no reports C1_report, C2_report or no raters")
        for label in labels:
            candidate = study[f"{label}_report"]
            of_raters = [one.get(label) if isinstance(one, dict) else None for one in raters]
            values: list[Any] = [one.get("rating") if isinstance(one, dict) else None for one in of_raters]
            if not isinstance(candidate, str) or not all(_is_number(value) for value in values):
                raise InputError(f"{where}: {label} has no text or not a rating of each rater")
            found.add(str(number), candidate, reference, study, {"rating": fmean(values)})
    return found.done("RadPref")


def _rexval(folder: Path) -> Ratings:
    """Read ReXVal; a rating is minus the mean over the raters of the number of errors."""
    samples, errors = (read_rows(folder / name) for name in REXVAL)
    kinds = ("radgraph", "bertscore", "s_emb", "bleu")
    sums: dict[tuple[str, str], dict[str, float]] = {}
    raters: dict[tuple[str, str], set[str]] = {}
    for number, row in enumerate(errors, 1):
        where = f"{REXVAL[1]}, row {number}"
        key = (_name(row, "study_number", where), _name(row, "candidate_type", where))
        count = _number(row, "num_errors", where)
        one = sums.setdefault(key, {"errors": 0.0, "significant errors": 0.0})
        one["errors"] += count
        one["significant errors"] += count * _yes_or_no(row, "clinically_significant", where)
        raters.setdefault(key, set()).add(_name(row, "rater_index", where))
    number_of = _study_number(samples, {study for study, _ in sums})
    found = _Rows()
    for at, row in enumerate(samples):
        reference = _text(row, "gt_report", f"{REXVAL[0]}, row {at + 1}")
        for kind in kinds:
            key = (number_of(at, row), kind)
            if key not in sums:
                raise InputError(f"{REXVAL[1]} has no errors of row {at + 1}, {kind}, of {REXVAL[0]}")
            ratings = {name: -value / len(raters[key]) for name, value in sums[key].items()}
            found.add(str(at), _text(row, kind, f"{REXVAL[0]}, row {at + 1}"), reference, row, ratings)
    return found.done("ReXVal")


def _study_number(samples: Sequence[Row], studies: set[str]) -> Callable[[int, Row], str]:
    """Return how the table of errors names a row of reports: by its id, or by its number from 0 or from 1."""
    if all(str(row.get("study_id")) in studies for row in samples):
        return lambda at, row: str(row["study_id"])
    first = 0 if "0" in studies else 1
    return lambda at, row: str(at + first)


def _table(path: Path) -> Ratings:
    rows = read_rows(path)
    study = next((name for name in _STUDY if any(lookup(row, name) is not None for row in rows)), "")
    if not study:
        raise InputError(
            f"{path.name} has no column {_STUDY[0]}",
            hint="ratings are RadPref's JSON, the folder of ReXVal, or a table: study, reference, candidate, rating",
        )
    found = _Rows()
    for number, row in enumerate(rows, 1):
        where = f"{path.name}, row {number}"
        ratings = {"rating": _number(row, "rating", where)}
        found.add(
            _name(row, study, where), _text(row, "candidate", where), _text(row, "reference", where), row, ratings
        )
    return found.done("table")


def _text(row: Row, name: str, where: str) -> str:
    value = lookup(row, name)
    if value is None or isinstance(value, dict | list):
        raise InputError(f"{where}: no {name}")
    return str(value)


def _name(row: Row, name: str, where: str) -> str:
    """Return a value that names something: a study, a rater."""
    if is_nothing(value := _text(row, name, where)):
        raise InputError(f"{where}: no {name}")
    return value.strip()


def _yes_or_no(row: Row, name: str, where: str) -> bool:
    try:
        value = label_of(_text(row, name, where))
    except ValueError:
        value = None
    if value not in (0, 1):
        raise InputError(f"{where}: {name} is neither yes nor no")
    return value == 1


def _number(row: Row, name: str, where: str) -> float:
    text = _text(row, name, where)
    try:
        value = float(text) if "_" not in text else float("nan")  # Python reads 1_0 as 10
    except ValueError:
        value = float("nan")
    if not _is_number(value):
        raise InputError(f"{where}: {name} is not a number")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
