"""Tables of predictions and references, joined by id."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from encoder.datasets.tables import read_records
from encoder.errors import LlavaRadError
from metrics.base import InputError
from metrics.strata import UNKNOWN
from metrics.suite import Pairs

Row = Mapping[str, Any]
Side = Literal["prediction", "reference"]

# Tried in this order if no field is named; a dot goes into a nested object. The first of each is written by
# `llava-rad generate -f jsonl`.
ID_FIELDS = ("input.sha256", "id", "study_id", "dicom_id", "image_id", "uid")
TEXT_FIELDS: Mapping[Side, Sequence[str]] = {
    "prediction": ("report.text", "prediction", "candidate", "generated", "findings", "report", "text"),
    "reference": ("reference", "findings", "report", "text"),
}
_LISTED = 10


@dataclass(frozen=True)
class Table:
    """Texts by id, in the file's order.

    Attributes:
        texts: id -> text.
        rows: id -> the whole row.
        id_field: name of the id field.
        text_field: name of the text field.
    """

    texts: dict[str, str]
    rows: dict[str, Row]
    id_field: str
    text_field: str


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a JSONL, JSON (one list of objects) or CSV file, told by its suffix; ``.gz`` may follow it.

    Raises:
        InputError: if it cannot be read or has no rows.
    """
    if re.search(r"\.(jsonl|json|csv)(\.gz)?$", path.name.lower()) is None:
        raise InputError(f"{path.name}: not a .jsonl, .json or .csv file")
    try:
        rows: list[Row] = list(read_records(path, of=path.name))
    except LlavaRadError as error:
        raise InputError(str(error)) from error
    if not rows:
        raise InputError(f"{path.name} has no rows")
    return rows


def read_table(path: Path, side: Side, *, id_field: str | None = None, text_field: str | None = None) -> Table:
    """Read the table of predictions or of references.

    Args:
        path: see :func:`read_rows`.
        side: selects the field names that are tried if none is given.
        id_field: name of the id field; a dot goes into a nested object.
        text_field: name of the text field.

    Raises:
        InputError: if there is no such field, a row has no id or text, or an id comes twice.
    """
    rows = read_rows(path)
    id_field = _field(rows, id_field, ID_FIELDS, path, "--id-field")
    text_field = _field(rows, text_field, TEXT_FIELDS[side], path, f"--{side}-field")
    ids = []
    for number, row in enumerate(rows, 1):
        value = lookup(row, id_field)
        frame = lookup(row, "input.facts.frame") if id_field == "input.sha256" else None
        if value is None or value == "" or isinstance(value, dict | list):
            raise InputError(f"{path.name}, row {number}: no {id_field}")
        ids.append(f"{value}/{frame}" if isinstance(frame, int) and frame > 1 else str(value))
    twice = [key for key, count in Counter(ids).items() if count > 1]
    if twice:
        raise InputError(f"{path.name}: {_counted(twice)} more than once: {listed(twice)}")
    texts = [lookup(row, text_field) for row in rows]
    without = [key for key, text in zip(ids, texts, strict=True) if not isinstance(text, str)]
    if without:
        raise InputError(f"{path.name}: no text in {text_field} for {_counted(without)}: {listed(without)}")
    return Table(dict(zip(ids, texts, strict=True)), dict(zip(ids, rows, strict=True)), id_field, text_field)


def join(predictions: Table, references: Table, strata: Sequence[str] = ()) -> Pairs:
    """Join two tables by id.

    Args:
        predictions: generated reports.
        references: reference reports, which give the order.
        strata: columns that group the reports; looked up in the references, then in the predictions.

    Raises:
        InputError: if an id is in one table only, or a column in neither.
    """
    missing = [key for key in references.texts if key not in predictions.texts]
    extra = [key for key in predictions.texts if key not in references.texts]
    faults = []
    if missing:
        faults.append(f"{_counted(missing)} of the references without a prediction: {listed(missing)}")
    if extra:
        faults.append(f"{_counted(extra)} of the predictions without a reference: {listed(extra)}")
    if faults:
        raise InputError("; ".join(faults))
    ids = list(references.texts)
    groups = {}
    for column in strata:
        for table in (references, predictions):
            values = [lookup(table.rows[key], column) for key in ids]
            if any(value is not None for value in values):
                groups[column] = [group_of(column, value) for value in values]
                break
        else:
            raise InputError(f"neither table has a column {column}")
    return Pairs(ids, [predictions.texts[key] for key in ids], list(references.texts.values()), groups)


def group_of(column: str, value: Any) -> str:
    """Return the group of a value: ages in the paper's bands (appendix C.6), missing values as "unknown"."""
    text = "" if value is None else str(value).strip()
    if not text or text.lower() in {"nan", "none", "null", "na", "n/a"}:
        return UNKNOWN
    if column.rsplit(".", 1)[-1].lower() not in {"age", "patient_age", "patientage", "anchor_age"}:
        return text
    number = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*([YyMmWwDd]?)", text)
    if number is None:
        return UNKNOWN
    years = float(number[1]) / {"m": 12, "w": 52, "d": 365}.get(number[2].lower(), 1)
    if years < 20:
        return "<20"
    return next((f"{low}-{low + 20}" for low in (20, 40, 60) if years < low + 20), ">=80")


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


def listed(ids: Sequence[str]) -> str:
    """Return the first ids, and the number of the others, for a message."""
    shown = ", ".join(key[:80] for key in ids[:_LISTED])
    return f"{shown} and {len(ids) - _LISTED} more" if len(ids) > _LISTED else shown


def _counted(ids: Sequence[str]) -> str:
    return f"{len(ids)} id" + ("s" if len(ids) != 1 else "")


def _field(rows: Sequence[Row], named: str | None, tried: Iterable[str], path: Path, option: str) -> str:
    for name in [named] if named else tried:
        if any(lookup(row, name) is not None for row in rows):
            return name
    looked = named or ", ".join(tried)
    raise InputError(f"{path.name} has no field {looked}", hint=f"name it with {option}")
