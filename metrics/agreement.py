"""Agreement of metrics with ratings by people: rank correlations and ordered pairs, with intervals by study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from metrics.base import InputError
from metrics.bootstrap import Bootstrap, Interval, interval
from metrics.registry import title
from metrics.tables import Cells, aligned, latex, markdown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from metrics.scores import Floats


@dataclass(frozen=True)
class Agreement:
    """Agreement of one metric with one rating.

    Attributes:
        kendall: Kendall's tau-b over all reports.
        spearman: Spearman's rank correlation over all reports.
        pairs: share of the pairs of reports of one study with different ratings that the metric orders alike; equal
            values of the metric count half.
        n_pairs: number of these pairs.
    """

    kendall: Interval
    spearman: Interval
    pairs: Interval
    n_pairs: int


def agreement(
    values: Sequence[float] | Floats, ratings: Sequence[float], studies: Sequence[str], bootstrap: Bootstrap
) -> Agreement:
    """Compare a metric with a rating of N reports; for both, more is better.

    Args:
        values: N values of the metric.
        ratings: N ratings.
        studies: study of each report; studies are resampled with all their reports.
        bootstrap: settings of the intervals.

    Returns:
        Values that are None where they are not defined: equal values, or no pair.

    Raises:
        InputError: if the lengths differ or there are fewer than two reports.
    """
    import numpy as np
    from scipy.stats import kendalltau, spearmanr

    found, rated = np.asarray(values, dtype=np.float64), np.asarray(ratings, dtype=np.float64)
    if not len(found) == len(rated) == len(studies):
        raise InputError(
            f"{len(found)} values, {len(rated)} ratings, {len(studies)} studies: there must be one of each"
        )
    if len(found) < 2:
        raise InputError("agreement needs at least two reports")
    drawn = bootstrap.patients(list(studies))
    right, total = _pairs(found, rated, drawn.rows)

    def correlations(rows: NDArray[np.intp]) -> tuple[float, float]:
        if np.ptp(found[rows]) == 0 or np.ptp(rated[rows]) == 0:
            return np.nan, np.nan
        first, second = found[rows], rated[rows]
        return float(kendalltau(first, second).statistic), float(spearmanr(first, second).statistic)

    everything = np.arange(len(found))
    tau, rho = correlations(everything)
    draws: list[tuple[float, float]] = []
    shares = np.empty(0)
    if len(drawn) > 1:
        draws = [correlations(np.repeat(everything, row[drawn.rows].astype(int))) for row in drawn.weights]
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = (drawn.weights @ right) / (drawn.weights @ total)
    columns = np.array(draws).T if draws else (None, None)
    share = right.sum() / total.sum() if total.sum() else np.nan
    return Agreement(
        interval(tau, columns[0]),
        interval(rho, columns[1]),
        interval(float(share), shares if len(shares) else None),
        int(total.sum()),
    )


def _pairs(values: Floats, ratings: Floats, rows: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Return the pairs of each study that are ordered alike, and those with different ratings."""
    import numpy as np

    right, total = np.zeros(rows.max() + 1), np.zeros(rows.max() + 1)
    for study in range(len(total)):
        members = np.flatnonzero(rows == study)
        first, second = np.triu_indices(len(members), 1)
        rated = np.sign(ratings[members[first]] - ratings[members[second]])
        found = np.sign(values[members[first]] - values[members[second]])
        total[study] = np.count_nonzero(rated)
        right[study] = np.sum((1 + rated * found)[rated != 0] / 2)
    return right, total


@dataclass(frozen=True)
class Rated:
    """Agreement of several metrics with several ratings.

    Attributes:
        reports: number of reports.
        studies: number of studies.
        table: by rating, then by score.
        not_computed: reason by metric.
        signatures: choices that the numbers depend on, by metric.
        bootstrap: settings of the intervals.
    """

    reports: int
    studies: int
    table: Mapping[str, Mapping[str, Agreement]]
    not_computed: Mapping[str, str]
    signatures: Mapping[str, str]
    bootstrap: Bootstrap


SCHEMA = "llava-rad.agreement/1"
STATISTICS = {"kendall": "Kendall tau-b", "spearman": "Spearman", "pairs": "pairs in order"}


def cells(rated: Rated, rating: str) -> Cells:
    """Return the table of one rating: a row for each metric, the best first."""
    table = rated.table[rating]

    def worth(name: str) -> float:
        point = table[name].kendall.point
        return float("-inf") if point is None else point

    rows = [["metric", *(column for words in STATISTICS.values() for column in (words, "95 % interval")), "pairs"]]
    for name in sorted(table, key=worth, reverse=True):
        one = table[name]
        numbers = [text for kind in STATISTICS for text in _numbers(getattr(one, kind))]
        rows.append([title(name), *numbers, f"{one.n_pairs:,}"])
    rows += [[name, "not computed", *[""] * 6] for name in rated.not_computed]
    return rows


def to_text(rated: Rated) -> str:
    """Return the tables in aligned columns."""
    parts = [_caption(rated)]
    parts += [f"agreement with {name}\n{aligned(cells(rated, name))}" for name in rated.table]
    return "\n\n".join([*parts, *_notes(rated)]) + "\n"


def to_markdown(rated: Rated) -> str:
    """Return the tables in Markdown."""
    parts = [_caption(rated)]
    parts += [f"**Agreement with {name}**\n\n{markdown(cells(rated, name))}" for name in rated.table]
    return "\n\n".join([*parts, *(f"```\n{note}\n```" for note in _notes(rated))]) + "\n"


def to_latex(rated: Rated) -> str:
    """Return the tables in LaTeX with booktabs."""
    parts = [f"% {_caption(rated)}"]
    parts += [f"% agreement with {name}\n{latex(cells(rated, name))}" for name in rated.table]
    notes = ["\n".join(f"% {line}" for line in note.splitlines()) for note in _notes(rated)]
    return "\n\n".join([*parts, *notes]) + "\n"


def to_json(rated: Rated) -> str:
    """Return one JSON object, the same bytes for the same input."""
    content = {
        "schema": SCHEMA,
        "reports": rated.reports,
        "studies": rated.studies,
        "agreement": {
            rating: {name: asdict(one) for name, one in table.items()} for rating, table in rated.table.items()
        },
        "not_computed": dict(rated.not_computed),
        "signatures": {**rated.signatures, "intervals": rated.bootstrap.signature},
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _numbers(one: Interval) -> list[str]:
    if one.point is None:
        return ["not defined", ""]
    ends = "" if one.low is None else f"[{one.low:.3f}, {one.high:.3f}]"
    return [f"{one.point:.3f}", ends]


def _caption(rated: Rated) -> str:
    return (
        f"{rated.reports:,} rated reports of {rated.studies:,} studies. 95 % intervals from {rated.bootstrap.samples} "
        f"bootstrap samples of the studies, seed {rated.bootstrap.seed}. Pairs in order: of two reports of one study."
    )


def _notes(rated: Rated) -> list[str]:
    notes = []
    if rated.not_computed:
        notes.append("\n".join(["not computed:", *(f"  {name}: {why}" for name, why in rated.not_computed.items())]))
    lines = [*rated.signatures.values(), rated.bootstrap.signature]
    return [*notes, "\n".join(["signatures:", *(f"  {line}" for line in lines)])]
