"""The table of studies, which readers of data sets write and training and benchmarks read.

JSON lines or CSV in UTF-8, one frontal image each: ``id``, ``image`` (path, relative to the table's folder if it is
inside), ``findings``, ``dataset``, ``subject``, ``study``, ``view``, ``split``; where they are known, the patient's
``sex``, ``age``, ``ethnicity``, ``weight`` and ``bmi``, and the fields of :class:`Context`. Other tables of images and
texts are read too: :mod:`encoder.datasets.columns` has the usual names of these fields; other fields are ignored.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder.datasets.columns import ATTRIBUTES, IGNORE, Columns
from encoder.datasets.forms import derived, per_image, recognised
from encoder.datasets.manifest import Row
from encoder.datasets.tables import as_spelled, columns_there, read_records
from encoder.datasets.values import known, split_of
from encoder.errors import LlavaRadError
from encoder.files import reported, writing
from encoder.reader.views import FRONTAL, stated, view_of
from llava_rad.reports.sections import findings_part

FIELDS = ("id", "image", "findings", "dataset", "subject", "study", "view", "split")
CONTEXT_IMAGES = ("lateral", "prior")
CONTEXT_TEXTS = ("prior_report", "indication", "technique", "comparison", "impression")
CONTEXT = (*CONTEXT_IMAGES, *CONTEXT_TEXTS, "days")
"""Fields of :class:`Context`."""
_READ = (*FIELDS, *ATTRIBUTES, *CONTEXT)
_DATES = ("date", "time")
TABLE_FIELDS = (*_READ, *_DATES, IGNORE)
"""Fields of a table of pairs, for which a user may name columns."""
_LISTED = 5
_OF = "the table of pairs"
_FIELD_OF = {"reference": "findings"}
_NO_TEXT = "\0"  # stands for a value that is not text


@dataclass(frozen=True, slots=True)
class Context:
    """Further inputs of a study besides its frontal image and Findings; "" and None where they are not known.

    A text that says nothing ("None.", ``___``) counts as not known.

    Attributes:
        lateral: lateral image of the same study.
        prior: frontal image of an earlier study of the same patient.
        prior_report: Findings of that study.
        indication: indication, history or reason for the examination.
        technique: section of that name.
        comparison: section of that name.
        impression: section of that name.
        days: from the prior to this study.
    """

    lateral: Path | None = None
    prior: Path | None = None
    prior_report: str = ""
    indication: str = ""
    technique: str = ""
    comparison: str = ""
    impression: str = ""
    days: int | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the fields that are known."""
        return tuple(name for name in CONTEXT if getattr(self, name) not in (None, ""))


NO_CONTEXT = Context()


@dataclass(frozen=True, slots=True)
class Pair:
    """One frontal image and the Findings section of its report.

    Attributes:
        row: the image, as in a manifest.
        findings: text with white space collapsed; case, punctuation, ``___`` and ``XXXX`` are unchanged.
        odd_view: a view is stated, but it is not known, or several are; the row's view is ``"unknown"``.
        context: what else is known of the study.
    """

    row: Row
    findings: str
    odd_view: bool = False
    context: Context = NO_CONTEXT

    @property
    def id(self) -> str:
        """Unique within a table."""
        return self.row.image or str(self.row.path)


def frontal(pair: Pair) -> bool:
    """Tell whether a pair is of a frontal image, or of one whose view is not stated or not known."""
    return pair.row.view in FRONTAL or pair.row.view == "unknown"


def collapse(text: str) -> str:
    """Replace each run of white space by a single space."""
    return " ".join(text.split())


def read_pairs(
    file: Path,
    columns: Mapping[str, Sequence[str]] | None = None,
    say: Callable[[str], None] = lambda message: None,
    home: Path | None = None,
) -> list[Pair]:
    """Read a table of pairs; see :func:`read_dated`, which also returns the dates."""
    return [pair for pair, _ in read_dated(file, columns, say, home)]


def read_dated(
    file: Path,
    columns: Mapping[str, Sequence[str]] | None = None,
    say: Callable[[str], None] = lambda message: None,
    home: Path | None = None,
) -> list[tuple[Pair, tuple[str, str]]]:
    """Read a table of pairs; see :func:`encoder.datasets.tables.read_records` for its form.

    Published tables are read by their form (:mod:`encoder.datasets.forms`); their rows without Findings are left out.
    Of a text such as "Findings: ... Impression: ..." the Findings are taken.

    Args:
        file: the table.
        columns: field of :data:`TABLE_FIELDS` -> names of columns, where they have other names than usual.
        say: called with the columns that are read and those that are not, and with what cannot be read.
        home: folder of relative paths; default: the table's own.

    Returns:
        Each pair with the texts of the study's date and time, "" where the table has none.

    Raises:
        LlavaRadError: if it does not exist, is not such a table, or a row lacks its image or text or repeats an id;
            messages name rows by number and quote none of their content.
    """
    if not file.exists():
        raise LlavaRadError("the table of pairs does not exist", hint="llava-rad reports writes one")
    rows = list(derived(read_records(file, of=_OF), of=_OF))
    if not rows:
        raise LlavaRadError(f"{_OF} is empty")
    home = Path(os.path.normpath((home or file.parent).absolute()))
    form, chosen = recognised(rows)
    named = {_FIELD_OF.get(name, name): [column] for name, column in chosen.items()} | dict(columns or {})
    if "image" not in chosen:
        rows = list(per_image(rows))
    pairs: list[tuple[Pair, tuple[str, str]]] = []
    places: dict[str, int] = {}
    empty: list[int] = []
    twice: list[tuple[int, int]] = []
    found: dict[tuple[str, ...], Columns] = {}  # a record of JSON lines need not have the fields of the first one
    texts = [_texts(row, number) for number, row in enumerate(rows, 1)]
    sectioned = 0
    for number, cells in enumerate(texts, 1):
        header = tuple(cells)
        if header not in found:
            found[header] = Columns.find(header, named, (*_READ, *_DATES), of=_OF)
        report = found[header].cell(cells, "findings")
        part = findings_part(report)
        sectioned += part is not None
        pair = _pair(cells, found[header], home, number, report if part is None else known(part))
        if not pair.findings:
            empty.append(number)
            if form is not None:
                continue
        if (first := places.setdefault(pair.id, number)) != number:
            twice.append((first, number))
        pairs.append((pair, (found[header].cell(cells, "date"), found[header].cell(cells, "time"))))
    if empty and not pairs:
        raise LlavaRadError(f"no row of the table of pairs has a text in '{found[tuple(texts[0])].first('findings')}'")
    if empty and form is None:
        raise LlavaRadError(f"{len(empty)} rows of the table of pairs have no text: {listed(empty)}")
    if twice:
        raise LlavaRadError(
            f"{len(twice)} ids occur in the table of pairs more than once: rows "
            + listed([f"{first} and {second}" for first, second in twice]),
            hint='--column "id=COLUMN" names another column of ids',
        )
    widest = max(found.values(), key=lambda one: len(one.header))
    say(widest.read())
    if ignored := [name for name in widest.rest if name]:
        say(f"columns ignored: {', '.join(ignored)}")
    for line in widest.unreadable(texts):
        say(f"warning: {line}")
    if empty:
        say(f"{len(empty):,} of {len(rows):,} rows have no Findings and are left out")
    if sectioned:
        say(f"of {sectioned:,} texts with headings only the Findings are taken")
    check_context([pair for pair, _ in pairs])
    return pairs


def check_context(pairs: Sequence[Pair]) -> None:
    """Check that priors and laterals belong to the patient, and that no test image is a prior in training.

    Raises:
        LlavaRadError: if a lateral or prior is the image itself, or an image of the table of another patient, another
            split or (lateral) another study; or if a prior report has no prior image or a prior is not earlier.
    """
    rows = {pair.row.path: pair.row for pair in pairs}
    for pair in pairs:
        row, where = pair.row, f"row {pair.row.number} of the table of pairs"
        if pair.context.days is not None and pair.context.days < 0:
            raise LlavaRadError(f"{where}: the prior is not earlier than the study (days is negative)")
        for name in CONTEXT_IMAGES:
            path: Path | None = getattr(pair.context, name)
            if path == row.path:
                raise LlavaRadError(f"{where}: the {name} image is the image itself")
            other = None if path is None else rows.get(path)
            if other is None:
                continue
            for field in ("subject", "split", *(["study"] if name == "lateral" else [])):
                ours, theirs = getattr(row, field), getattr(other, field)
                if ours and theirs and ours != theirs:
                    raise LlavaRadError(f"{where}: the {name} image is one of another {field}, see row {other.number}")


def write_pairs(pairs: Iterable[Pair], file: Path) -> None:
    """Write a table of pairs atomically, as CSV or JSON lines by its suffix.

    Raises:
        LlavaRadError: if the file cannot be written.
    """
    home = os.path.normpath(file.parent.absolute())
    inside = f"{home}{os.sep}"
    with reported("the table of pairs"), writing(file, "w") as stream:
        pairs = list(pairs)
        more = [name for name in ATTRIBUTES if any(name in pair.row.attributes for pair in pairs)]
        context = [name for name in CONTEXT if any(name in pair.context.given for pair in pairs)]
        names = (*FIELDS, *more, *context)
        table = csv.writer(stream, lineterminator="\n") if file.suffix.lower() == ".csv" else None
        if table:
            table.writerow(names)
        for pair in pairs:
            row = pair.row
            image = _written(row.path, inside)
            cells: list[str | int] = [
                pair.id,
                image,
                pair.findings,
                row.dataset,
                row.subject,
                row.study,
                row.view,
                row.split,
            ]
            cells += [row.attributes.get(name, "") for name in more]
            cells += [_written(getattr(pair.context, name), inside) for name in context]
            if table:
                table.writerow(cells)
            else:
                stream.write(json.dumps(dict(zip(names, cells, strict=True)), ensure_ascii=False) + "\n")


def _written(value: Any, inside: str) -> str | int:
    """Return a value as it is written: paths below a folder are relative to it."""
    if isinstance(value, Path):
        return str(value).removeprefix(inside).replace(os.sep, "/")
    return "" if value is None else value


def _texts(row: Mapping[str, Any], number: int) -> dict[str, str]:
    """Return the cells of a row as text; objects and lists are kept out unless a field needs them."""
    return {name: "" if value is None else str(value) if _is_text(value) else _NO_TEXT for name, value in row.items()}


def _is_text(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _pair(cells: Mapping[str, str], columns: Columns, home: Path, number: int, findings: str) -> Pair:
    for name in (*FIELDS, *ATTRIBUTES):
        if name in columns.of and cells.get(columns.first(name)) == _NO_TEXT:
            raise LlavaRadError(f"row {number} of the table of pairs: {columns.first(name)} is not text")
    image = columns.cell(cells, "image").replace("\\", "/")
    if not image:
        hint = f'name its column with --column "image=COLUMN"; {columns_there(columns.header)}'
        raise LlavaRadError(f"row {number} of the table of pairs names no image", hint=hint)
    if not columns.first("findings"):
        hint = f'name its column with --column "findings=COLUMN"; {columns_there(columns.header)}'
        raise LlavaRadError(f"row {number} of the table of pairs has no field with the report", hint=hint)
    split = columns.cell(cells, "split")
    if split and not split_of(split):
        raise LlavaRadError(f"row {number} of the table of pairs: the split is none of train, val, test or empty")
    view = columns.cell(cells, "view")
    return Pair(
        Row(
            as_spelled(home, image),
            dataset=columns.cell(cells, "dataset"),
            subject=columns.cell(cells, "subject"),
            study=columns.cell(cells, "study"),
            image=columns.cell(cells, "id") or image,
            view=view_of(view),
            split=split_of(split),
            number=number,
            attributes=columns.attributes(cells),
        ),
        collapse(findings),
        odd_view=view_of(view) == "unknown" and stated(view),
        context=_context(cells, columns, home, number),
    )


def _context(cells: Mapping[str, str], columns: Columns, home: Path, number: int) -> Context:
    found = {name: columns.cell(cells, name) for name in CONTEXT if name in columns.of}
    found = {name: text for name, text in found.items() if text and text != _NO_TEXT}
    if not found:
        return NO_CONTEXT
    read: dict[str, Any] = {name: collapse(found[name]) for name in CONTEXT_TEXTS if name in found}
    read |= {name: as_spelled(home, found[name].replace("\\", "/")) for name in CONTEXT_IMAGES if name in found}
    if "days" in found:
        try:
            read["days"] = int(float(found["days"]))
        except (ValueError, OverflowError):
            raise LlavaRadError(f"row {number} of the table of pairs: the days since the prior are no number") from None
    return Context(**read)


def listed(found: Sequence[Any]) -> str:
    """Join the first of some numbers of rows for a message."""
    return ", ".join(map(str, found[:_LISTED])) + (", ..." if len(found) > _LISTED else "")
