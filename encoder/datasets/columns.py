"""Columns of a user's own table: the usual names of each field, and the columns that a user names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from encoder.datasets.tables import columns_there
from encoder.datasets.values import (
    age_of,
    attributes_of,
    ethnicity_of,
    is_no_answer,
    is_unknown,
    known,
    measure_of,
    sex_of,
    years_of,
)
from encoder.errors import LlavaRadError
from encoder.reader.views import view_of

FIELDS: Mapping[str, tuple[str, ...]] = {
    "image": (
        "image", "imagepath", "path", "file", "filename", "filepath", "imagefile", "imagefilename", "imagename",
        "dicompath", "pngpath", "pathtoimage", "imageindex", "imageid", "dicomid",
    ),
    "findings": (
        "findings", "report", "text", "reference", "caption", "generatedreport", "reporttext", "findingstext",
        "findingssection", "sectionfindings",
    ),
    "id": ("id", "imageid", "dicomid"),
    "subject": ("subject", "subjectid", "patientid", "patient", "patientidentifier", "participantid", "deidpatientid"),
    "study": ("study", "studyid", "studyinstanceuid", "accessionnumber", "accession"),
    "view": ("view", "viewposition", "projection", "viewname", "imageviewposition", "frontallateral"),
    "split": ("split", "partition", "datasplit", "datasetsplit"),
    "dataset": ("dataset",),
    "sex": ("sex", "gender", "patientsex", "patientgender", "patientsexdicom"),
    "age": ("age", "patientage", "ageyears", "ageinyears", "ageatstudy", "anchorage"),
    "ethnicity": (
        "race", "patientrace", "primaryrace", "ethnicity", "patientethnicity", "raceethnicity", "ethnicgroup",
        "ethnicities",
    ),
    "weight": ("weight", "weightkg", "patientweight"),
    "bmi": ("bmi", "bodymassindex"),
    "label": ("label", "labels", "findinglabels"),
    "impression": ("impression", "sectionimpression", "impressions", "conclusion"),
    "indication": (
        "indication", "sectionindication", "reasonforexam", "reasonforexamination", "reasonforstudy",
        "clinicalindication", "clinicalhistory", "sectionclinicalhistory", "history", "sectionhistory",
    ),
    "technique": ("technique", "sectiontechnique"),
    "comparison": ("comparison", "sectioncomparison", "comparisons"),
    "lateral": ("lateral", "lateralimage", "lateralpath", "lateralimagepath"),
    "prior": ("prior", "priorimage", "priorpath", "priorimagepath"),
    "prior_report": ("priorreport", "priorfindings"),
    "days": ("days", "dayssinceprior"),
    "date": ("studydate", "studydatedicom", "date", "patientreportdateorder"),
    "time": ("studytime",),
}  # fmt: skip
"""Field -> its usual names in order of preference, in lower case without spaces, underscores and other signs."""
ATTRIBUTES = ("sex", "age", "ethnicity", "weight", "bmi")
IGNORE = "ignore"
MASK = "mask:"
"""Prefix of the fields and columns of masks: ``mask:left lung``."""
_READERS: Mapping[str, Callable[[str], str]] = {
    "sex": sex_of, "age": age_of, "ethnicity": ethnicity_of, "weight": measure_of, "bmi": measure_of,
}  # fmt: skip
_IDENTIFYING = {"image", "findings", "id", "subject", "study"}
_MANY = 20
_LISTED = 5
_BANDS = {20: "<20", 40: "20-40", 60: "40-60", 80: "60-80"}


@lru_cache(4096)
def plain(name: str) -> str:
    """Reduce a column's name to lower-case letters and digits."""
    return re.sub(r"[\W_]+", "", name.lower())


def matching(header: Iterable[str], name: str) -> list[str]:
    """Return the columns that hold a field: the usual names of its meaning, in order of preference."""
    by_name: dict[str, list[str]] = {}
    for column in header:
        by_name.setdefault(plain(column), []).append(column)
    return [column for usual in FIELDS.get(name, (plain(name),)) for column in by_name.get(usual, ())]


def field_of(column: str) -> str:
    """Return the field that a column's name means; "" if it is none. Of ``patient.age`` the last part counts."""
    name = plain(column.rsplit(".", 1)[-1])
    return next((one for one, names in FIELDS.items() if name in names), "")


def identifies(column: str, groups: Sequence[str]) -> bool:
    """Tell whether a column names patients, reports or images rather than groups of them.

    Args:
        column: its name.
        groups: group of each of N reports; a column of as many groups as half of the reports is no grouping.
    """
    number = len(set(groups))
    return field_of(column) in _IDENTIFYING or number > max(_MANY, len(groups) / 2)


def group_of(column: str, text: str) -> str:
    """Return the group of a value, told by its column's name: sexes, ethnicities and bands of age (C.6), views.

    Args:
        column: name of a field, or a usual name of it.
        text: of the value.

    Returns:
        The text itself in other columns; "" if the value is missing, not understood or no answer.
    """
    kind, text = field_of(column), known(text)
    if kind == "age":
        years = years_of(text)
        return "" if years is None else next((band for edge, band in _BANDS.items() if years < edge), ">=80")
    read = {"sex": sex_of, "ethnicity": ethnicity_of}.get(kind)
    if kind == "view":
        view = view_of(text)
        return "" if view == "unknown" else view
    if read:
        return read(text)
    return "" if is_no_answer(text) else text


def parsed(options: Sequence[str], allowed: Iterable[str]) -> dict[str, list[str]]:
    """Parse options such as ``subject=Patient ID``.

    Args:
        options: FIELD=COLUMN each; ``ignore`` and ``label`` may be repeated. An empty column leaves the field out. The
            name of the structure in ``mask:NAME`` keeps its case.
        allowed: fields that the command takes.

    Raises:
        LlavaRadError: if one has another form, names an unknown field, or a field twice.
    """
    found: dict[str, list[str]] = {}
    fields = list(allowed)
    for one in options:
        name, equals, column = one.partition("=")
        name = name.strip()
        structure = name[len(MASK) :].strip() if f"{MASK}NAME" in fields and name.lower().startswith(MASK) else ""
        name = f"{MASK}{structure}" if structure else name.lower()
        if not equals or not (structure or name in fields):
            raise LlavaRadError(f"a column is given as FIELD=COLUMN; fields are {', '.join(fields)}")
        if name in found and name not in (IGNORE, "label"):
            raise LlavaRadError(f"the column of the field {name!r} is given twice")
        found.setdefault(name, []).append(column)
    return found


def _shown(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:_LISTED])) + (", ..." if len(numbers) > _LISTED else "")


def spelled(header: Sequence[str], column: str) -> str:
    """Return a column as the header spells it; the name as it is if it is none, or empty."""
    same = [one for one in header if plain(column) and plain(one) == plain(column)]
    return column if column in header or len(same) != 1 else same[0]


@dataclass(frozen=True)
class Columns:
    """Columns of a table by field.

    Attributes:
        of: field -> columns; those of ``ethnicity`` are read together, of other fields the first.
        rest: columns of no field, in the table's order.
        header: all columns.
    """

    of: Mapping[str, Sequence[str]]
    rest: Sequence[str] = field(default=())
    header: Sequence[str] = field(default=())

    @classmethod
    def find(
        cls, header: Sequence[str], chosen: Mapping[str, Sequence[str]], fields: Iterable[str], *, of: str
    ) -> Columns:
        """Find the columns of fields: those chosen, else those with a usual name.

        Args:
            header: columns of the table.
            chosen: field -> columns, as :func:`parsed` returns them.
            fields: fields to find.
            of: name of the table, for messages.

        Raises:
            LlavaRadError: if a chosen column does not exist, or several could be the report.
        """
        chosen = {name: [spelled(header, column) for column in columns] for name, columns in chosen.items()}
        exact = {name for names in chosen.values() for name in names if name}
        if odd := sorted(exact - set(header)):
            raise LlavaRadError(f"{of} has no column '{odd[0]}'", hint=columns_there(header))
        left = [name for name in header if name not in exact]
        found: dict[str, Sequence[str]] = {}
        for name in fields:
            columns = [one for one in chosen[name] if one] if name in chosen else matching(left, name)
            if name == "findings" and len(columns) > 1:
                raise LlavaRadError(
                    f"{of} has several columns that could be the report: {', '.join(columns)}",
                    hint=f"choose one: 'llava-rad reports table' takes --column \"findings={columns[0]}\"",
                )
            if columns:
                found[name] = columns if name in ("ethnicity", "label") else columns[:1]
        read = {column for columns in found.values() for column in columns} | set(chosen.get(IGNORE, ()))
        return cls(found, [name for name in header if name not in read], header)

    def first(self, name: str) -> str:
        """Return the first column of a field; "" if it has none."""
        return next(iter(self.of.get(name, ())), "")

    def cell(self, row: Mapping[str, str], name: str) -> str:
        """Return the cell of a field in a row; "" if there is none or it says nothing."""
        column = self.first(name)
        return known(row.get(column, "")) if column else ""  # a column may have no name

    def attributes(self, row: Mapping[str, str]) -> dict[str, str]:
        """Return the patient's attributes in a row; unreadable ones are left out."""
        return attributes_of(**{name: self._text(row, name) for name in ATTRIBUTES if name in self.of})

    def unreadable(self, rows: Sequence[Mapping[str, str]]) -> list[str]:
        """Describe the cells of attributes that say something that cannot be read, and those without a patient.

        Rows are named by their numbers. A table without any patient is not described: its counts state that.
        """
        found = []
        alone = [number for number, row in enumerate(rows, 1) if not self.cell(row, "subject")]
        if self.first("subject") and alone and len(alone) < len(rows):
            found.append(
                f"column '{self.first('subject')}': no patient in {len(alone):,} rows: {_shown(alone)}; "
                "each counts as a patient of its own"
            )
        for name in filter(self.of.get, ATTRIBUTES):
            texts = {number: self._text(row, name) for number, row in enumerate(rows, 1)}
            odd = [number for number, text in texts.items() if not is_unknown(text) and not _READERS[name](text)]
            if odd:
                found.append(f"column '{self.first(name)}': no {name} is read in {len(odd):,} rows: {_shown(odd)}")
        return found

    def read(self) -> str:
        """Describe the columns that are read, for a note."""
        return "columns read: " + ", ".join(
            name if columns == [name] else f"{name} from {' and '.join(map(repr, columns))}"
            for name, columns in ((name, list(columns)) for name, columns in self.of.items())
        )

    def _text(self, row: Mapping[str, str], name: str) -> str:
        return ", ".join(text for column in self.of.get(name, ()) if (text := known(row.get(column, ""))))
