"""Attributes from MIMIC-IV for MIMIC-CXR images: sex, age, weight, body-mass index, ethnicity at the time of the study.

Tables of ``hosp/``, plain or gzip. ``patients`` (``subject_id``, ``gender``, ``anchor_age``, ``anchor_year``): both
data sets shift a patient's dates alike, so the age is anchor_age + year of the study - anchor_year (anchor_age 91
stands for all above 89). ``omr`` (``subject_id``, ``chartdate``, ``result_name``, ``result_value``): of the weights
("Weight (Lbs)", to kg) and of "BMI (kg/m2)" the one nearest to the study's day. ``admissions`` (``subject_id``,
``race``): the group of most admissions, one of the paper's six (C.6). Unknown and implausible values are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Final

from encoder.datasets import mimic_cxr
from encoder.datasets.manifest import Row
from encoder.datasets.splits import counted
from encoder.datasets.tables import find, project, read_csv
from encoder.datasets.values import ethnicity_of, sex_of

OF = "MIMIC-IV"
COHORT: Final = ("sex", "age", "weight", "bmi")
"""Attributes that all images of the paper's cohort have: the numbers of table E.1 add up to the same for each."""
_MEASURES = {"Weight (Lbs)": ("weight", 0.45359237, 20, 350), "BMI (kg/m2)": ("bmi", 1.0, 8, 120)}


@dataclass
class _Person:
    sex: str = ""
    age: int | None = None  # in the year 0
    groups: Counter[str] = field(default_factory=Counter)
    measures: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


def read_no_finding(root: Path, say: Callable[[str], None] = lambda message: None) -> Iterator[Row]:
    """Yield frontal images labelled "No Finding" of patients with all attributes: the paper's 60,100 (E.3.4).

    Args:
        root: folder of both projects.
        say: called with the number of images and patients after each step.
    """
    cxr = project(root, ("mimic-cxr-jpg", "mimic-cxr"), mimic_cxr.METADATA, of="MIMIC-CXR")
    suitable = [r for r in mimic_cxr.read(cxr) if r.view in ("PA", "AP") and r.labels["No Finding"] == 1.0]
    known = [row for row in linked(suitable, mimic_cxr.study_dates(cxr), root) if row.attributes]
    whole = [row for row in known if all(name in row.attributes for name in COHORT)]
    say(f"PA and AP images without findings: {counted(suitable)}")
    say(f"their patient is in MIMIC-IV: {counted(known)}")
    say(f"sex, age, weight and bmi are known (the paper: 60.1 thousand images): {counted(whole)}")
    return iter(whole)


def linked(rows: Collection[Row], dates: Mapping[str, date], root: Path) -> list[Row]:
    """Add their patients' attributes to rows; rows of unknown patients stay as they are.

    Args:
        rows: of MIMIC-CXR.
        dates: of the study of each image, by its name.
        root: the folder of MIMIC-IV, or one with ``mimiciv`` or ``mimiciv/VERSION`` in it.

    Raises:
        LlavaRadError: if a table is missing or damaged.
    """
    hosp = project(root, ("mimiciv",), ("hosp/patients.csv",), of=OF) / "hosp"
    people = _people(hosp, {row.subject for row in rows})
    done = []
    for row in rows:
        person = people.get(row.subject)
        done.append(replace(row, attributes=_at(person, dates.get(row.image))) if person is not None else row)
    return done


def _at(person: _Person, day: date | None) -> dict[str, str]:
    age = None if day is None or person.age is None else person.age + day.year
    found = {"sex": person.sex, "age": str(age) if age is not None and 0 <= age <= 120 else ""}
    for name, values in person.measures.items():
        near = values[0] if day is None else min(values, key=lambda value: abs(value[0] - day.toordinal()))
        found[name] = f"{near[1]:.1f}"
    found["ethnicity"] = person.groups.most_common(1)[0][0] if person.groups else ""
    return {name: value for name, value in found.items() if value}


def _people(hosp: Path, wanted: Collection[str]) -> dict[str, _Person]:
    people: dict[str, _Person] = {}
    columns = ("subject_id", "gender", "anchor_age", "anchor_year")
    for row in read_csv(find(hosp, "patients.csv", of=OF), *columns, of=OF):
        if row["subject_id"] in wanted:
            person = people[row["subject_id"]] = _Person(sex_of(row["gender"]))
            if row["anchor_age"].isdecimal() and row["anchor_year"].isdecimal():
                person.age = int(row["anchor_age"]) - int(row["anchor_year"])
    for row in read_csv(find(hosp, "admissions.csv", of=OF), "subject_id", "race", of=OF):
        if row["subject_id"] in people and (group := ethnicity_of(row["race"])):
            people[row["subject_id"]].groups[group] += 1
    columns = ("subject_id", "chartdate", "result_name", "result_value")
    for row in read_csv(find(hosp, "omr.csv", of=OF), *columns, of=OF):
        if row["subject_id"] in people and row["result_name"] in _MEASURES:
            name, unit, low, high = _MEASURES[row["result_name"]]
            try:
                day, value = date.fromisoformat(row["chartdate"][:10]), float(row["result_value"]) * unit
            except ValueError:
                continue
            if low <= value <= high:
                people[row["subject_id"]].measures.setdefault(name, []).append((day.toordinal(), value))
    return people
