"""Figure of an evaluation: scores of metrics, classes and groups with their 95 % intervals."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

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
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MetricError("a figure needs matplotlib", hint="pip install 'llava-rad[plot]'") from error

    panels = _panels(result)
    heights = [_BAR * (2 + sum(len(rows) for rows in groups.values())) + 0.6 for _, groups in panels]
    canvas = Figure(figsize=(8, sum(heights)), layout="constrained")
    FigureCanvasAgg(canvas)
    grid = canvas.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (heading, groups) in zip(grid, panels, strict=True):
        _bars(axes, heading, groups)
    canvas.supxlabel("score x 100, with the 95 % interval of the bootstrap")
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
