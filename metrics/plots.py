"""Figures: scores of metrics, classes and groups, and agreement with ratings, with their 95 % intervals."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from metrics.agreement import STATISTICS, Rated
from metrics.base import MetricError
from metrics.bootstrap import Interval
from metrics.registry import labelers, title
from metrics.suite import Evaluation

_BAR = 0.28  # inches of height


def figure(result: Evaluation, kind: str) -> bytes:
    """Draw an evaluation.

    Args:
        result: the evaluation.
        kind: ``png``, ``svg`` or ``pdf``.

    Returns:
        Content of the file.

    Raises:
        MetricError: if matplotlib is not installed.
    """
    panels = _panels(result)
    heights = [_BAR * (2 + sum(len(rows) for rows in groups.values())) + 0.6 for _, groups in panels]
    canvas = _canvas(8, sum(heights))
    grid = canvas.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (heading, groups) in zip(grid, panels, strict=True):
        _bars(axes, heading, groups)
    canvas.supxlabel("score x 100, with the 95 % interval of the bootstrap")
    return _saved(canvas, kind)


def agreement_figure(rated: Rated, kind: str) -> bytes:
    """Draw the agreement of metrics with ratings: a row of panels for each rating.

    Args:
        rated: the agreement.
        kind: ``png``, ``svg`` or ``pdf``.

    Raises:
        MetricError: if matplotlib is not installed.
    """
    height = _BAR * (3 + max(len(table) for table in rated.table.values())) + 0.5
    canvas = _canvas(9, height * len(rated.table))
    grid = canvas.subplots(len(rated.table), len(STATISTICS), squeeze=False, sharey="row")
    for row, (rating, table) in zip(grid, rated.table.items(), strict=True):
        names = sorted(table, key=lambda name: table[name].kendall.point or 0.0)
        for axes, (statistic, words) in zip(row, STATISTICS.items(), strict=True):
            for y, name in enumerate(names):
                one: Interval = getattr(table[name], statistic)
                if one.point is not None:
                    axes.plot([one.point], [y], "o", color="C0")
                if one.low is not None and one.high is not None:
                    axes.plot([one.low, one.high], [y, y], color="C0", lw=1.5)
            axes.set_yticks(range(len(names)), [title(name) for name in names])
            axes.set_title(words, fontsize=9)
            axes.axvline(0.5 if statistic == "pairs" else 0.0, color="0.6", lw=0.8)
            axes.grid(axis="x", color="0.9")
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(f"agreement with\n{rating}", fontsize=8)
    canvas.supxlabel(
        f"{rated.reports:,} reports of {rated.studies:,} studies, with 95 % intervals by study", fontsize=8
    )
    return _saved(canvas, kind)


def _canvas(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MetricError("a figure needs matplotlib", hint="pip install 'llava-rad[plot]'") from error

    canvas = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas


def _saved(canvas: Any, kind: str) -> bytes:
    out = io.BytesIO()
    canvas.savefig(
        out, format=kind, dpi=120, metadata={"Creator": None, "CreationDate": None} if kind == "pdf" else None
    )
    return out.getvalue()


Rows = Mapping[str, Interval]


def _panels(result: Evaluation) -> list[tuple[str, Mapping[str, Rows]]]:
    """Return the headings of the panels, each with the rows of every model."""
    names = [name for name in result.models[0].intervals if "/" not in name]
    panels: list[tuple[str, Mapping[str, Rows]]] = [
        (
            f"{len(result.ids):,} reports",
            {one.name: {title(n): one.intervals[n] for n in names} for one in result.models},
        )
    ]
    for labeler, words in labelers().items():
        classes = [name for name in result.models[0].intervals if name.startswith(f"{labeler}_f1") and "/" in name]
        if classes:
            rows = {
                one.name: {f"{title(n)} (n={one.positives[n]:,})": one.intervals[n] for n in classes}
                for one in result.models
            }
            panels.append((f"{words} F1 by class (n: positive references)", rows))
    for column in result.models[0].strata:
        for name in (name for name in names if name in result.models[0].strata[column]):
            rows = {
                one.name: {
                    f"{group} (n={found.n:,})": found.score or Interval(None, None, None, None)
                    for group, found in one.strata[column][name].groups.items()
                }
                for one in result.models
            }
            panels.append((f"{title(name)} by {column}", rows))
    return panels


def _bars(axes: Any, heading: str, groups: Mapping[str, Rows]) -> None:
    labels: Sequence[str] = list(next(iter(groups.values())))
    height = 0.8 / len(groups)
    for offset, (name, rows) in enumerate(groups.items()):
        for row, label in enumerate(labels):
            interval, y = rows[label], row + (offset - (len(groups) - 1) / 2) * height
            if interval.point is None:
                axes.text(0.5, y, "not estimable", va="center", fontsize=7, color="0.4")
                continue
            axes.barh(y, 100 * interval.point, height, color=f"C{offset}", alpha=0.75, label=name if row == 0 else None)
            if interval.low is not None and interval.high is not None:
                axes.plot([100 * interval.low, 100 * interval.high], [y, y], color="0.15", lw=1.2)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(min(0.0, axes.dataLim.x0), max(100.0, axes.dataLim.x1))  # CIDEr goes to 1,000, findings below 0
    axes.set_title(heading, loc="left", fontsize=10)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(groups) > 1:
        axes.legend(fontsize=7, loc="lower right")
