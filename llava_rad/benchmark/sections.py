"""Tables of a benchmark's results: their form, the texts of their cells, and those about the inputs of studies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llava_rad.benchmark.inputs import Worth, Written, counts
from llava_rad.benchmark.published import Value
from llava_rad.benchmark.scoring import Agreement, Diversity
from llava_rad.benchmark.task import Task
from metrics.bootstrap import Interval
from metrics.comparisons import without_prior
from metrics.registry import PRIOR_CLAIMS, title
from metrics.strata import Strata
from metrics.suite import Model
from metrics.tables import Cells

_MARKS = {"first": " better", "second": " worse", "no difference shown": ""}


@dataclass(frozen=True)
class Section:
    """One table.

    Attributes:
        heading: title.
        cells: rows of texts; the first is the head.
        note: text below the table.
        brief: the table is also printed on the terminal.
    """

    heading: str
    cells: Cells
    note: str = ""
    brief: bool = False


def short_title(name: str) -> str:
    """Return the title of a score, shortened for the head of a table."""
    return title(name).replace("CheXbert Macro-F1-14", "Macro-F1-14").replace("rules (not CheXbert)", "rules")


def score_text(interval: Interval) -> str:
    """Return the median and the interval of a score."""
    if interval.median is None:
        return "not defined" if interval.point is None else point_text(interval.point)
    return f"{100 * interval.median:.1f}{interval_text(interval, ' ')}"


def group_text(interval: Interval | None) -> str:
    """Return the score of a group of patients with its interval."""
    return "not estimable" if interval is None else point_text(interval.point) + interval_text(interval, " ")


def interval_text(interval: Interval | None, before: str = "") -> str:
    """Return the ends of an interval; "" without one."""
    if interval is None or interval.low is None:
        return ""
    return f"{before}[{point_text(interval.low)}, {point_text(interval.high)}]"


def worst_text(strata: Strata) -> str:
    """Return the worst group with its score."""
    worst = strata.groups[strata.worst].score if strata.worst is not None else None
    return "none" if worst is None else f"{point_text(worst.point)} ({strata.worst})"


def point_text(value: float | None) -> str:
    """Return a score x 100; "" if it is not defined."""
    return "" if value is None else f"{100 * value:.1f}"


def signed_texts(interval: Interval) -> tuple[str, str]:
    """Return a difference and its interval."""
    if interval.median is None or interval.low is None or interval.high is None:
        return "not defined", ""
    return f"{100 * interval.median:+.1f}", f"[{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def published_text(value: Value) -> str:
    """Return a published score with its interval."""
    return f"{value.median:.1f} [{value.low:.1f}, {value.high:.1f}]"


def diversity_section(diversity: Mapping[str, Diversity]) -> Section:
    """Return the numbers of different reports of each system."""
    cells = [["", "different reports", "share", "words per report", "empty"]]
    for name, one in diversity.items():
        cells.append([name, f"{one.distinct:,}", f"{100 * one.share:.1f} %", f"{one.words:.1f}", f"{one.empty:,}"])
    return Section("Different reports", cells)


def agreement_section(agreement: Mapping[str, Agreement]) -> Section:
    """Return how many reports of a sample differ from those of the paper's protocol."""
    cells = [["model", "sample", "reports that differ", "share", "95 % interval"]]
    for name, one in agreement.items():
        low, high = one.interval
        share = f"{100 * one.different / one.sample:.1f} %"
        cells.append([name, f"{one.sample:,}", f"{one.different:,}", share, f"[{100 * low:.1f}, {100 * high:.1f}]"])
    return Section("This protocol against the paper's (float32, batch 1)", cells, brief=True)


def inputs_sections(
    task: Task, written: Iterable[Written], worths: Sequence[Worth], columns: Sequence[str]
) -> list[Section]:
    """Return the tables of a run from further inputs than the frontal image."""
    if not any(one.inputs.names[1:] for one in written):
        return []
    return [inputs_section(task), worth_section(worths, columns)]


def inputs_section(task: Task) -> Section:
    """Return the numbers of reports and studies that have each input."""
    cells = [["input", "reports", "share", "studies"]]
    for name, (reports, studies) in counts(task.cases).items():
        share = f"{100 * reports / len(task.cases):.1f} %"
        cells.append([name.replace("_", " "), f"{reports:,}", share, f"{studies:,}"])
    return Section("Inputs of the studies", cells, brief=True)


def worth_section(worths: Sequence[Worth], columns: Sequence[str]) -> Section:
    """Return what each input is worth by some scores."""
    several = len({one.model for one in worths}) > 1
    cells = [["added input", "to", *(["model"] if several else []), "reports", *map(short_title, columns)]]
    for one in worths:
        row = [one.label, one.to.label, *([one.model] if several else []), f"{one.reports:,}"]
        for name in columns:
            difference = one.differences.get(name)
            if difference is None or difference.low is None:
                row.append("")
                continue
            change, interval = signed_texts(difference)
            row.append(f"{change} {interval}{_MARKS[difference.verdict]}")
        cells.append(row)
    note = (
        "Scores with the added input minus scores without it, of the reports that were written with it, with the 95 % "
        "interval by patient. Better, worse: the interval excludes 0 and p (Holm, over all rows) is below 0.05."
    )
    return Section("Worth of each input", cells, note, brief=True)


def claims_section(models: Sequence[Model]) -> Section:
    """Return how often reports that were written without an earlier image compare with one."""
    cells = [["", "reports without a prior", "that compare", "sentences that compare", "references that compare"]]
    for model in models:
        scores = model.scores.get(PRIOR_CLAIMS)
        if scores is not None and (number := without_prior(scores)):
            shares = [_share(model.by_patient, name) for name in ("prior_claims", "prior_claims_sentences")]
            cells.append([model.name, f"{number:,}", *shares, _share(model.by_patient, "prior_claims_references")])
    note = (
        "Shares x 100 with the 95 % interval by patient. No model can know what it compares with: such sentences are "
        "invented (prior_claims in docs/metrics.md)."
    )
    return Section("Comparisons with an earlier study that was not given", cells, note, brief=True)


def _share(intervals: Mapping[str, Interval], name: str) -> str:
    one = intervals.get(name)
    return "" if one is None else point_text(one.point) + interval_text(one, " ")
