"""Plots of a benchmark as SVG: scores of all systems, F1 by class, values of single reports."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llava_rad.benchmark.published import SCORES as PUBLISHED
from llava_rad.benchmark.published import TABLE_2
from llava_rad.benchmark.summary import Summary
from metrics.tables import title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES, CLASSES, REPORTS = "Scores of all systems", "F1 by class", "Scores of single reports"
_BINS = 20


def plots(summary: Summary) -> dict[str, bytes] | None:
    """SVG files by heading; None where matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        return None

    draw: dict[str, Callable[[Figure, Summary], bool]] = {
        SCORES: _scores,
        CLASSES: _classes,
        REPORTS: _reports,
    }
    found = {}
    with matplotlib.rc_context({"svg.hashsalt": "llava-rad", "font.size": 9, "svg.fonttype": "none"}):
        for heading, function in draw.items():
            figure = Figure(layout="constrained")
            FigureCanvasSVG(figure)
            if function(figure, summary):
                out = io.BytesIO()
                figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
                found[heading] = out.getvalue()
    return found


def _scores(figure: Figure, summary: Summary) -> bool:
    """A panel for each score: median and interval of each system, the paper's RAD-DINO as a band."""
    models = summary.scored.evaluation.models
    columns = [name for name in summary.columns if name in models[0].intervals]
    if not columns:
        return False
    figure.set_size_inches(max(4.0, 2.6 * len(columns) + 1.5), 1.0 + 0.32 * len(models))
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, columns, strict=True):
        for row, model in enumerate(models):
            one = model.intervals[name]
            colour = "C0" if model.name in summary.scored.models else "0.55"
            if one.median is not None and one.low is not None and one.high is not None:
                axes.plot([100 * one.low, 100 * one.high], [row, row], color=colour, lw=2)
                axes.plot(100 * one.median, row, "o", color=colour, ms=5)
        if summary.task.published and name in PUBLISHED:
            value = getattr(TABLE_2[summary.task.published][-1], name)
            axes.axvspan(value.low, value.high, color="C1", alpha=0.3, lw=0)
        axes.set_title(title(name).replace("CheXbert ", "").replace(" (not CheXbert)", ""))
        axes.set_yticks(range(len(models)), [model.name for model in models])
        axes.grid(axis="x", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(left=0)
    panels[0].invert_yaxis()
    band = "; orange: the paper's RAD-DINO" if summary.task.published else ""
    figure.supxlabel(f"x 100, median and 95 % interval; blue: models, grey: reference points{band}", fontsize=8)
    return True


def _classes(figure: Figure, summary: Summary) -> bool:
    """F1 of each class of the models, by CheXbert where it was computed, else by the labeler of phrases."""
    models = [one for one in summary.scored.evaluation.models if one.name in summary.scored.models]
    labelers = {"chexbert": "CheXbert", "rules": "labeler rules, not CheXbert"}
    names: list[str] = []
    for labeler in labelers:
        names = [name for name in models[0].intervals if name.startswith(f"{labeler}_f1") and "/" in name]
        if names:
            break
    if not names:
        return False
    figure.set_size_inches(7.5, 1.2 + 0.3 * len(names))
    axes: Any = figure.subplots()
    height = 0.8 / len(models)
    for number, model in enumerate(models):
        for row, name in enumerate(names):
            one, y = model.intervals[name], row + (number - (len(models) - 1) / 2) * height
            if one.point is not None:
                label = model.name if row == 0 else None
                axes.barh(y, 100 * one.point, height, color=f"C{number}", alpha=0.75, label=label)
            if one.low is not None and one.high is not None:
                axes.plot([100 * one.low, 100 * one.high], [y, y], color="0.2", lw=1)
    axes.set_yticks(range(len(names)), [f"{title(name)} (n={models[0].positives[name]:,})" for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"F1 x 100 ({labelers[labeler]}); n: positive references", fontsize=8)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(models) > 1:
        axes.legend(fontsize=8)
    return True


def _reports(figure: Figure, summary: Summary) -> bool:
    """How the values of single reports are spread, for each model."""
    models = [one for one in summary.scored.evaluation.models if one.name in summary.scored.models]
    names = [name for name in ("rouge_l", "rg_er") if any(name in one.per_sample for one in models[0].scores.values())]
    if not names:
        return False
    figure.set_size_inches(3.8 * len(names), 2.6)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for number, model in enumerate(models):
            values = next(one.per_sample[name] for one in model.scores.values() if name in one.per_sample)
            axes.hist(100 * values, bins=_BINS, range=(0, 100), histtype="step", color=f"C{number}", label=model.name)
        axes.set_title(title(name))
        axes.set_xlabel("x 100")
        axes.set_ylabel("reports")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7)
    return True
