"""The curves of one run, or of several in one figure."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from encoder.errors import LlavaRadError
from encoder.files import write
from encoder.runs.folder import CONFIG, CURVES
from encoder.runs.metrics_log import read_metrics

PANELS = (
    ("loss", "total loss"),
    ("dino", "DINO loss"),
    ("ibot", "iBOT loss"),
    ("koleo", "KoLeo"),
    ("teacher_entropy", "teacher entropy (nats)"),
    ("cls_effective_rank", "effective rank of CLS"),
    ("lr", "learning rate"),
    ("probe_linear_auprc", "linear probe, macro AUPRC"),
    ("probe_linear_auroc", "linear probe, macro AUROC"),
    ("probe_linear_loss", "linear probe, log loss"),
    ("probe_knn_auroc", "nearest neighbours, macro AUROC"),
)
"""Panels in reading order: name in the metrics log and title. Panels without a logged value are left out."""
_AT_LN_K = ("dino", "teacher_entropy")
_COLUMNS = 5


def plot(run_folders: Sequence[Path], output: Path, panels: Sequence[tuple[str, str]] = PANELS) -> None:
    """Draw the metrics of runs by step as one PNG, which appears complete or not at all.

    Losses, learning rate, the teacher's entropy (with ln K, where the run's configuration has K), effective rank, and
    scores of the probes. Several runs share the panels; the legend has their folders' names.

    Args:
        run_folders: at least one; a run may still be going on.
        output: the file.
        panels: name in the metrics log and title of each panel.

    Raises:
        LlavaRadError: if matplotlib is not installed, a folder has no metrics log, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise LlavaRadError(
            "curves need matplotlib, which is not installed", hint='pip install "llava-rad[plot]"'
        ) from None
    names = _names(run_folders)
    runs = [read_metrics(folder) for folder in run_folders]
    levels = sorted({level for folder in run_folders if (level := _ln_k(folder)) is not None})
    series = [{name: _curve(lines, name) for name, _ in panels} for lines in runs]
    drawn = [(name, title) for name, title in panels if any(one[name][0] for one in series)]
    if not drawn:
        raise LlavaRadError("the runs have not logged anything yet")
    columns = min(_COLUMNS, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure = Figure(figsize=(3.1 * columns, 2.6 * rows + 0.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    legend: dict[str, Any] = {}
    for index, axes in enumerate(grid.flat):
        if index >= len(drawn):
            axes.set_axis_off()
            continue
        name, title = drawn[index]
        for run, one in zip(names, series, strict=True):
            few = name.startswith(("probe_", "val_", "sample_")) or len(one[name][0]) < 3
            (legend[run],) = axes.plot(*one[name], linewidth=1.4, marker="o" if few else None, markersize=3.5)
        for level in levels if name in _AT_LN_K else ():
            legend["ln K"] = axes.axhline(level, color="0.35", linestyle="--", linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.set_xlim(left=0)
        axes.tick_params(labelsize=8)
        axes.yaxis.get_offset_text().set_size(8)
        axes.grid(visible=True, alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if index + columns >= len(drawn):
            axes.set_xlabel("optimiser step", fontsize=9)
    ordered = {name: legend.pop(name) for name in names} | legend
    columns = min(len(ordered), 5)
    figure.legend(
        ordered.values(), ordered.keys(), loc="outside lower center", ncols=columns, fontsize=9, frameon=False
    )
    data = io.BytesIO()
    figure.savefig(data, format="png")
    try:
        write(output, data.getvalue())
    except OSError as error:
        raise LlavaRadError(f"the curves could not be written: {error.strerror or type(error).__name__}") from error


def plot_run(folder: Path, panels: Sequence[tuple[str, str]] = PANELS) -> str | None:
    """Draw ``curves.png`` of a finished run, where Matplotlib is installed.

    Args:
        folder: the run folder.
        panels: as for :func:`plot`.

    Returns:
        Why there is no picture; None if it was drawn or Matplotlib is not installed. A picture never fails a run.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return None
    try:
        plot([folder], folder / CURVES, panels)
    except LlavaRadError as error:
        return f"{CURVES} was not drawn: {error}"
    except Exception as error:  # Matplotlib without a usable folder for its fonts, for instance
        return f"{CURVES} was not drawn ({type(error).__name__})"
    return None


def _curve(lines: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one number; a value that was not finite leaves a gap."""
    found = [(line["step"], line[name]) for line in lines if name in line]
    return [step for step, _ in found], [math.nan if value is None else value for _, value in found]


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of those above as it takes to tell them apart."""
    paths = [folder.absolute() for folder in folders]
    deepest = max((len(path.parts) for path in paths), default=1)
    for depth in range(1, deepest + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names


def _ln_k(folder: Path) -> float | None:
    try:
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        return math.log(config["head"]["prototypes"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None
