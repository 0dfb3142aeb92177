"""Tables of predictions and references, joined by id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from encoder.datasets import columns
from encoder.datasets.columns import field_of, matching, plain
from encoder.datasets.forms import derived, recognised
from encoder.datasets.tables import columns_there, read_records
from encoder.datasets.values import is_no_answer, is_nothing, known, labels_of, split_of, years_of
from encoder.errors import LlavaRadError
from llava_rad.benchmark.priors import prior_of
from llava_rad.reports.sections import findings_part
from metrics.base import InputError
from metrics.labels import CLASSES
from metrics.strata import UNKNOWN
from metrics.suite import Pairs

Row = Mapping[str, Any]
Side = Literal["prediction", "reference"]

# Tried in this order if no field is named; a dot goes into a nested object. The first of each is written by
# `llava-rad generate -f jsonl`.
ID_FIELDS = ("input.sha256", "id", "study_id", "dicom_id", "image_id", "uid")
TEXT_FIELDS: Mapping[Side, Sequence[str]] = {
    "prediction": (
        "report.text", "prediction", "candidate", "generated", "generated_report", "generated_findings",
        "generated_text", "hypothesis", "findings", "report", "text",
    ),
    "reference": ("reference", "findings", "report", "text"),
}  # fmt: skip
_INDICATIONS = (
    "indication",
    "clinicalindication",
    "clinicalhistory",
    "reasonforexam",
    "reasonforexamination",
    "history",
)
_LISTED = 10
_LONGEST_ANSWER = 100  # characters of "unknown" and the like


@dataclass(frozen=True)
class Table:
    """Texts by id, in the file's order.

    Attributes:
        texts: id -> text.
        rows: id -> the whole row.
        id_field: name of the id field.
        text_field: name of the text field.
        sectioned: number of texts of which only the Findings are taken.
        numbers: id -> row number in the file, from 1.
        id_named: the user named the id field.
    """

    texts: dict[str, str]
    rows: dict[str, Row]
    id_field: str
    text_field: str
    sectioned: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    id_named: bool = False


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a table; see :func:`encoder.datasets.tables.read_records` for its form.

    Rows of published tables have further columns (:mod:`encoder.datasets.forms`).

    Raises:
        InputError: if it cannot be read or has no rows.
    """
    try:
        rows: list[Row] = list(derived(read_records(path, of=path.name), of=path.name))
    except LlavaRadError as error:
        raise InputError(str(error), hint=error.hint) from error
    if not rows:
        raise InputError(f"{path.name} has no rows")
    return rows


def read_annotations(path: Path) -> list[Row]:
    """Read the rows of a table of annotations; labels in columns of observations become 1, 0, -1 or None.

    Raises:
        InputError: as :func:`read_rows`, or if a label is not understood.
    """
    rows: list[Row] = []
    for number, row in enumerate(read_rows(path), 1):
        cells = {name: str(value) for name, value in row.items() if name in CLASSES and value is not None}
        try:
            rows.append({**row, **labels_of(cells, cells, f"{path.name}: row {number}")})
        except LlavaRadError as error:
            raise InputError(str(error), hint=error.hint) from None
    return rows


def read_table(
    path: Path, side: Side, *, id_field: str | None = None, text_field: str | None = None, split: str = ""
) -> Table:
    """Read the table of predictions or of references.

    Of a text such as "Findings: ... Impression: ..." the Findings are taken
    (:func:`llava_rad.reports.sections.findings_part`).

    Args:
        path: see :func:`read_rows`.
        side: selects the field names that are tried if none is given and the table has no published form.
        id_field: name of the id field; a dot goes into a nested object.
        text_field: name of the text field.
        split: take the rows of this split only (``train``, ``val``, ``test``).

    Raises:
        InputError: if there is no such field, several could be the text, a row has no id or text, an id comes twice, or
            no row is of the split.
    """
    rows = read_rows(path)
    numbers = list(range(1, len(rows) + 1))
    if split:
        column = next(iter(matching(dict.fromkeys(name for row in rows for name in row), "split")), "")
        numbers = [at for at in numbers if split_of(str(rows[at - 1].get(column, ""))) == split]
        rows = [rows[at - 1] for at in numbers]
        if not rows:
            raise InputError(f"{path.name} has no row of the split {split}")
    chosen, id_named = recognised(rows)[1], id_field is not None
    id_field, text_field = id_field or chosen.get("id"), text_field or chosen.get(side)
    id_field = usual_fields(rows, id_field, ID_FIELDS, path, "--id-field")[0]
    could = usual_fields(rows, text_field, TEXT_FIELDS[side], path, f"--{side}-field")
    if len(could) > 1:
        raise InputError(
            f"{path.name} has several fields that could be the {side}: {', '.join(could)}",
            hint=f"choose one with --{side}-field of 'llava-rad evaluate', or leave one in the table",
        )
    text_field = could[0]
    ids = []
    for number, row in zip(numbers, rows, strict=True):
        value = lookup(row, id_field)
        frame = lookup(row, "input.facts.frame") if id_field == "input.sha256" else None
        if value is None or isinstance(value, dict | list) or is_nothing(str(value)):
            raise InputError(f"{path.name}, row {number}: no {id_field}")
        ids.append(f"{value}/{frame}" if isinstance(frame, int) and frame > 1 else str(value))
    counts = Counter(ids)
    if twice := sum(count > 1 for count in counts.values()):
        where = [at for at, key in zip(numbers, ids, strict=True) if counts[key] > 1]
        raise InputError(f"{path.name}: {_counted(twice)} more than once: {listed(where)}")
    texts = [lookup(row, text_field) for row in rows]
    without = [at for at, text in zip(numbers, texts, strict=True) if not isinstance(text, str)]
    if without:
        raise InputError(f"{path.name}: no text in {text_field} for {_counted(len(without))}: {listed(without)}")
    parts = [scored_part(text) for text in texts]
    texts, sectioned = [text for text, _ in parts], sum(cut for _, cut in parts)
    places = dict(zip(ids, numbers, strict=True))
    return Table(
        dict(zip(ids, texts, strict=True)),
        dict(zip(ids, rows, strict=True)),
        id_field,
        text_field,
        sectioned,
        places,
        id_named,
    )


def scored_part(report: str) -> tuple[str, bool]:
    """Return what of a report is scored, and if that is a part: of "Findings: ... Impression: ..." the Findings.

    A report that says nothing ("nan", "unknown", "XXXX XXXX.", "<unk>") is "".
    """
    part = findings_part(report)
    text = report if part is None else part
    nothing = is_nothing(text) or (len(text) <= _LONGEST_ANSWER and is_no_answer(text))
    return "" if nothing else text, part is not None


def join(
    predictions: Table,
    references: Table,
    strata: Sequence[str] = (),
    *,
    patient: str | None = None,
    models: Sequence[Table] = (),
) -> Pairs:
    """Join two tables by id.

    Args:
        predictions: generated reports.
        references: reference reports, which give the order.
        strata: columns that group the reports; looked up in the references, then in the predictions.
        patient: column of the patients, looked up likewise; by default one with a usual name, if there is one.
        models: all predictions that are compared, these too, so that all of them have the same groups, patients, ages
            and indications; by default these alone.

    Raises:
        InputError: if an id is in one table only, a column in neither, or another column of ids contradicts the join.
    """
    missing = [references.numbers[key] for key in references.texts if key not in predictions.texts]
    extra = [predictions.numbers[key] for key in predictions.texts if key not in references.texts]
    faults = []
    if missing:
        faults.append(f"{_counted(len(missing))} of the references without a prediction: {listed(missing)}")
    if extra:
        faults.append(f"{_counted(len(extra))} of the predictions without a reference: {listed(extra)}")
    if faults:
        raise InputError("; ".join(faults))
    ids = list(references.texts)
    truth, own, *others = ([table.rows.get(key, {}) for key in ids] for table in (references, predictions, *models))
    _check_other_ids(predictions, references)
    tables = [truth, *(others or [own])]

    def first_of(found: Iterable[list[str] | None], column: str) -> list[str]:
        unknown: list[str] = []
        for one in found:
            if one is not None and set(one) != {UNKNOWN}:
                return one
            unknown = unknown or one or []
        if not unknown:
            raise InputError(f"neither table has a column {column}", hint=columns_there(tables[0][0]))
        return unknown

    groups = {column: first_of((groups_of(column, rows) for rows in tables), column) for column in strata}
    people = (patients_of(rows, patient) for rows in tables)
    patients = first_of(people, patient) if patient is not None else next((one for one in people if one), [])
    texts = [predictions.texts[key] for key in ids]
    context = context_of(tables) | prior_of([own, truth])
    return Pairs(ids, texts, list(references.texts.values()), groups, patients, context)


def _check_other_ids(predictions: Table, references: Table) -> None:
    """Refuse rows of two tables that one column of ids joins and another one joins otherwise."""
    if predictions.id_named or references.id_named:
        return
    for name in ID_FIELDS:
        own, truth = (_column(table, name) for table in (predictions, references))
        there = set(truth.values())
        crossed = [
            references.numbers[key]
            for key, one in truth.items()
            if one != own[key] and one and own[key] in there - {""}
        ]
        if crossed:
            raise InputError(
                f"{predictions.id_field} joins other rows of the two tables than {name} does: {listed(crossed)} of the "
                "references",
                hint="name the column that joins them with --id-field",
            )


def _column(table: Table, name: str) -> dict[str, str]:
    """Return the values of a column of ids by id; "" where there is none."""
    header = dict.fromkeys(name for row in table.rows.values() for name in row)
    name = next((one for one in header if plain(one) == plain(name)), name)
    values = ((key, lookup(row, name)) for key, row in table.rows.items())
    return {key: "" if value is None else known(str(value)) for key, value in values}


def context_of(tables: Sequence[Sequence[Row]]) -> dict[str, list[str]]:
    """Return the columns "age", in years, and "indication" of the first table that has them; "" is unknown."""
    found: dict[str, list[str]] = {}
    for rows in tables:
        header = dict.fromkeys(name for row in rows for name in row)
        columns = {
            "age": matching(header, "age"),
            "indication": [name for usual in _INDICATIONS for name in header if plain(name) == usual],
        }
        for name, named in columns.items():
            values = ["" if (value := lookup(row, named[0])) is None else str(value) for row in rows] if named else []
            if name == "age":
                values = ["" if (years := years_of(value)) is None else f"{years:g}" for value in values]
            values = ["" if is_no_answer(value) else value for value in values]
            if any(values):
                found.setdefault(name, values)
    return found


def patients_of(rows: Sequence[Row], column: str | None = None) -> list[str] | None:
    """Return the patient of each row, "" if unknown; None if no row names one in the column, or in a usual one.

    Equal names in two data sets (column ``dataset``) are two patients.
    """
    sets = ["" if (value := lookup(row, "dataset")) is None else f"{value}: " for row in rows]
    names = [column] if column else matching(dict.fromkeys(name for row in rows for name in row), "subject")
    for name in names:
        values = ["" if (value := lookup(row, name)) is None else str(value) for row in rows]
        if any(values := ["" if is_no_answer(value) else value.strip() for value in values]):
            return [value and first + value for first, value in zip(sets, values, strict=True)]
    return None


def groups_of(column: str, rows: Sequence[Row]) -> list[str] | None:
    """Return the group of each row, or None if no row has the column, neither by name nor by a usual name of it.

    Raises:
        InputError: if it is a column of patients, reports or images, whose names would be shown as groups.
    """
    names = [column]
    if all(lookup(row, column) is None for row in rows):
        names = matching(dict.fromkeys(name for row in rows for name in row), field_of(column) or column)
        names = names if field_of(column) == "ethnicity" else names[:1]
    values = [[value for name in names if (value := lookup(row, name)) is not None] for row in rows]
    if not any(values):
        return None
    groups = [group_of(column, ", ".join(map(str, found))) for found in values]
    if columns.identifies(column, groups):
        raise InputError(f"the column {column} names patients or reports, not groups of them", hint="choose another")
    return groups


def group_of(column: str, value: Any) -> str:
    """Return the group of a value as :func:`encoder.datasets.columns.group_of`, or "unknown"."""
    return columns.group_of(column, "" if value is None else str(value)) or UNKNOWN


def lookup(row: Row, name: str) -> Any:
    """Return the value of a field or None; dots in a name go into nested objects."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def listed(numbers: Sequence[int]) -> str:
    """Return the first row numbers, and the number of the others, for a message; ids may identify a patient."""
    shown = f"row{'s' if len(numbers) != 1 else ''} " + ", ".join(map(str, numbers[:_LISTED]))
    return f"{shown} and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else shown


def _counted(count: int) -> str:
    return f"{count} id" + ("s" if count != 1 else "")


def usual_fields(rows: Sequence[Row], named: str | None, tried: Iterable[str], path: Path, option: str) -> list[str]:
    """Return the fields that exist, in the order in which they are tried; of an object its parts are tried alone.

    Raises:
        InputError: if there is none.
    """
    header = dict.fromkeys(name for row in rows for name in row)
    found: dict[str, None] = {}
    for name in [named] if named else tried:
        same = [name] if named or "." in name else [other for other in header if plain(other) == plain(name)]
        for one in same:
            if any(isinstance(lookup(row, one), str | int | float) for row in rows):
                found[one] = None
    if found:
        return list(found)
    looked = named or ", ".join(tried)
    raise InputError(f"{path.name} has no field {looked}", hint=f"name it with {option}; {columns_there(header)}")
