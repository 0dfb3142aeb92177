"""Results of an evaluation as text, Markdown, LaTeX and JSON, and values of single reports."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from metrics import registry
from metrics.bootstrap import Difference, Interval
from metrics.registry import title
from metrics.strata import UNKNOWN, Group, Strata
from metrics.suite import Evaluation, Model

SCHEMA = "llava-rad.metrics/1"
NOTICE = "Scores of AI-generated drafts. Research use only. Not for clinical use."
BY_PATIENT = "interval by patient"
Cells = list[list[str]]
_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "%&#_${}"}
    | {"<": "$<$", ">": "$>$", "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
)


def to_json(result: Evaluation) -> str:
    """Return one JSON object, the same bytes for the same input; scores are fractions, null if not computed."""
    absent: dict[str, Any] = {registry.headline(name): None for name in result.not_computed}
    content = {
        "schema": SCHEMA,
        "notice": NOTICE,
        "reports": len(result.ids),
        "patients": result.patients,
        "bootstrap": {
            "samples": result.bootstrap.samples,
            "seed": result.bootstrap.seed,
            "interval": "percentile 95 %",
        },
        "models": [
            {
                "name": model.name,
                "scores": {name: _score(model, name) for name in model.intervals} | absent,
                "strata": {
                    column: {name: asdict(strata) for name, strata in table.items()}
                    for column, table in model.strata.items()
                },
            }
            for model in result.models
        ],
        "differences": [
            {
                "first": result.models[0].name,
                "second": other,
                "scores": {key: asdict(one) | {"verdict": one.verdict} for key, one in table.items()},
            }
            for other, table in result.differences.items()
        ],
        "not_computed": {name: asdict(why) for name, why in result.not_computed.items()},
        "signatures": {
            **result.signatures,
            "intervals": result.bootstrap.signature,
            "comparisons": result.bootstrap.comparisons,
        },
        "warnings": result.warnings,
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_text(result: Evaluation) -> str:
    """Return the tables in aligned columns."""
    parts = [NOTICE, _caption(result)]
    for heading, cells in _tables(result):
        parts.append((f"{heading}\n" if heading else "") + aligned(cells))
    parts += _remarks(result)
    return "\n\n".join(parts) + "\n"


def to_markdown(result: Evaluation) -> str:
    """Return the tables in Markdown."""
    parts = [f"*{NOTICE}*", _caption(result)]
    for heading, cells in _tables(result):
        parts.append(f"**{heading}**\n\n{markdown(cells)}" if heading else markdown(cells))
    parts += [f"```\n{remark}\n```" for remark in _remarks(result)]
    return "\n\n".join(parts) + "\n"


def to_latex(result: Evaluation) -> str:
    """Return the tables in LaTeX with booktabs."""
    parts = [f"% {NOTICE}\n% {_caption(result)}"]
    for heading, cells in _tables(result):
        parts.append((f"% {' '.join(heading.splitlines())}\n" if heading else "") + latex(cells))
    parts += ["\n".join(f"% {line}" for line in remark.splitlines()) for remark in _remarks(result)]
    return "\n\n".join(parts) + "\n"


def columns_by_report(result: Evaluation) -> dict[str, list[Any]]:
    """Return a column of ids and one for each metric with the value of each report; no texts."""
    columns: dict[str, list[Any]] = {"id": result.ids}
    for model in result.models:
        prefix = f"{model.name}/" if len(result.models) > 1 else ""
        for scores in model.scores.values():
            columns |= {prefix + name: values.tolist() for name, values in scores.per_sample.items()}
    return columns


def by_report_csv(result: Evaluation, more: Mapping[str, Sequence[str]] | None = None) -> bytes:
    """Return :func:`columns_by_report` as CSV, followed by ``more`` columns with a text for each report."""
    columns = columns_by_report(result) | {name: list(texts) for name, texts in (more or {}).items()}
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(map(_cells, zip(*columns.values(), strict=True)))
    return out.getvalue().encode()


def _cells(row: Sequence[Any]) -> list[Any]:
    """Return the cells of a row; a value that is not defined (NaN) is an empty cell."""
    return ["" if isinstance(value, float) and math.isnan(value) else value for value in row]


def by_report_parquet(result: Evaluation) -> bytes:
    """Return :func:`columns_by_report` as Parquet, with the signatures in the file's metadata."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(columns_by_report(result))
    table = table.replace_schema_metadata({"llava_rad.signatures": json.dumps(result.signatures)})
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def _tables(result: Evaluation) -> list[tuple[str, Cells]]:
    tables: list[tuple[str, Cells]] = []
    for model in result.models:
        heading = model.name if len(result.models) > 1 else ""
        tables.append((heading, _overall(model, result)))
        tables += [(f"{heading} {name}".strip(), cells) for name, cells in _classes(model)]
        for column, table in model.strata.items():
            tables.append((f"{heading} by {column}".strip(), _strata(table)))
    for other, scores in result.differences.items():
        first = result.models[0].name
        head = ["difference", "score", "median", f"95 % {BY_PATIENT}", "p", "p (Holm)", "better"]
        names = {"first": first, "second": other}
        rows = [[title(name), *_difference(scores[name], names)] for name in headline_names(scores)]
        tables.append((f"{first} minus {other}", [head, *rows]))
    return tables


def headline_names(scores: Any) -> list[str]:
    """Return all scores but those of single classes, with :attr:`metrics.base.Metric.leading` before the others."""
    names = [name for name in scores if "/" not in name]
    first = [name for name in registry.leading() if name in names]
    if not first:
        return names
    at = min(names.index(name) for name in first)
    rest = [name for name in names if name not in first]
    return rest[:at] + first + rest[at:]


def _overall(model: Model, result: Evaluation) -> Cells:
    rows = [["metric", "score", "median", "95 % interval", BY_PATIENT]]
    rows += [[title(name), *_both(model, name)] for name in headline_names(model.intervals)]
    rows += [[title(registry.headline(name)), "not computed", "", "", ""] for name in result.not_computed]
    return rows


def _classes(model: Model) -> list[tuple[str, Cells]]:
    labelers = registry.labelers()
    tables: dict[str, Cells] = {}
    for name in model.intervals:
        labeler, found, of_class = name.partition("_f1")
        if not found or "/" not in name:
            continue
        head = ["class", "positives", "F1", "median", "95 % interval", BY_PATIENT, "precision", "recall"]
        rows = tables.setdefault(f"{labelers[labeler]} F1 by class", [head])
        more = [_number(model.intervals[f"{labeler}_{kind}{of_class}"].point) for kind in ("precision", "recall")]
        rows.append([title(name), f"{model.positives[name]:,}", *_both(model, name), *more])
    return list(tables.items())


def _strata(table: dict[str, Strata]) -> Cells:
    rows = [["metric", "group", "n", "patients", "score", f"95 % {BY_PATIENT}"]]
    for name in headline_names(table):
        strata = table[name]
        total = sum(group.n for group in strata.groups.values()) + strata.unknown
        rows.append([title(name), "all (avg)", f"{total:,}", "", _number(strata.average), ""])
        for group, found in strata.groups.items():
            rows.append(["", group, f"{found.n:,}", f"{found.patients:,}", *_group_numbers(found)])
        if strata.unknown:
            rows.append(["", UNKNOWN, f"{strata.unknown:,}", "", "no group", ""])
        worst = strata.groups[strata.worst].score if strata.worst is not None else None
        name = f"worst, n >= {strata.minimum}" + (f": {strata.worst}" if worst else "")
        rows.append(["", name, "", "", _number(worst.point) if worst else "none", ""])
        rows.append(["", "gap (avg - worst)", "", "", "" if strata.gap is None else _number(strata.gap), ""])
    return rows


def _group_numbers(group: Group) -> list[str]:
    if group.score is None:
        return ["not estimable", ""]
    return [_number(group.score.point), _ends(group.score) or "not estimable"]


def _both(model: Model, name: str) -> list[str]:
    """Return score, median, interval by report and interval by patient."""
    return [*_numbers(model.intervals[name]), _ends(model.by_patient[name])]


def _difference(one: Difference, names: dict[str, str]) -> list[str]:
    return [*_numbers(one, signed=True), p_value(one.p), p_value(one.p_holm), names.get(one.verdict, one.verdict)]


def p_value(p: float | None) -> str:
    """Return a p-value as the text of a table; the smallest that random permutations can give is 0.0001."""
    return "" if p is None else f"{p:.4f}"


def _numbers(interval: Interval, *, signed: bool = False) -> list[str]:
    if interval.low is None:
        return [_number(interval.point, signed), "", ""]
    return [_number(interval.point, signed), _number(interval.median, signed), _ends(interval, signed)]


def _ends(interval: Interval, signed: bool = False) -> str:
    return "" if interval.low is None else f"[{_number(interval.low, signed)}, {_number(interval.high, signed)}]"


def _number(value: float | None, signed: bool = False) -> str:
    return "not defined" if value is None else f"{100 * value:{'+' if signed else ''}.2f}"


def _score(model: Model, name: str) -> dict[str, Any]:
    by_patient, positives = model.by_patient[name], model.positives.get(name)
    found = asdict(model.intervals[name]) | {"by_patient": {"low": by_patient.low, "high": by_patient.high}}
    return found | ({} if positives is None else {"positives": positives})


def _caption(result: Evaluation) -> str:
    bootstrap = result.bootstrap
    return (
        f"{len(result.ids):,} reports. Scores are x 100; median and 95 % interval from {bootstrap.samples} bootstrap "
        f"samples of the reports, seed {bootstrap.seed}. {of_patients(result.patients)}"
    )


def of_patients(patients: int | None) -> str:
    """Describe the unit of intervals by patient and of comparisons."""
    if patients is None:
        return "No column of patients: by patient, every report counts as a patient of its own."
    are = "patient is" if patients == 1 else "patients are"
    return f"By patient: {patients:,} {are} resampled with all their reports; comparisons use this only."


def _remarks(result: Evaluation) -> list[str]:
    remarks = []
    if result.not_computed:
        lines = ["not computed:"]
        for name, why in result.not_computed.items():
            lines.append(f"  {name}: {why.reason}")
            lines += [f"    {why.cure}"] if why.cure else []
        remarks.append("\n".join(lines))
    if result.warnings:
        remarks.append("\n".join(f"warning: {warning}" for warning in result.warnings))
    signatures = [*result.signatures.values(), result.bootstrap.signature, result.bootstrap.comparisons]
    remarks.append("signatures:\n" + "\n".join(f"  {signature}" for signature in signatures))
    return remarks


def aligned(cells: Cells) -> str:
    """Return a table in columns of spaces; the first row is the head, text columns are aligned to the left."""
    cells = _lines(cells)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    texts = {0} | ({1} if cells[0][1:2] == ["group"] else set())
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def markdown(cells: Cells) -> str:
    """Return a table in Markdown; the first row is the head."""
    head, *rows = _lines(cells)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def latex(cells: Cells) -> str:
    """Return a LaTeX table with booktabs; the first row is the head."""
    head, *rows = _lines(cells)
    lines = [r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule", _latex_row(head), r"\midrule"]
    return "\n".join([*lines, *map(_latex_row, rows), r"\bottomrule", r"\end{tabular}"])


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\"


def _lines(cells: Cells) -> Cells:
    """Return a table whose cells have no line break: names of groups may have some."""
    return [[" ".join(cell.splitlines()) for cell in line] for line in cells]
