"""Results page: one self-contained HTML file with tables, SVG plots, and the worst and best cases."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from llava_rad.benchmark import leaderboard
from llava_rad.benchmark.published import SCORES as PUBLISHED
from llava_rad.benchmark.published import TABLE_2
from llava_rad.benchmark.sections import Section
from llava_rad.benchmark.summary import Summary
from metrics import registry
from metrics.registry import title
from metrics.tables import NOTICE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from llava_rad.benchmark.disagreements import Disagreement

    Thumbnail = Callable[[int], npt.NDArray[np.uint8] | None]

SCORES, CLASSES, REPORTS = "Scores of all systems", "F1 by class", "Scores of single reports"
WORTH = "Worth of each input"
_BINS = 20
_SHOWN = 5
_DISAGREEMENTS = 20
_SIDE = 256
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #b45309; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
.notice { border: 1px solid var(--accent); border-radius: 6px; padding: .5rem .8rem; }
.note, figcaption { font-size: .85rem; opacity: .8; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom-width: 2px; }
tbody tr:hover { background: var(--soft); }
.case { display: grid; grid-template-columns: auto 1fr 1fr; gap: 1rem; padding: .8rem 0; }
.case + .case { border-top: 1px solid var(--line); }
.several { grid-template-columns: 200px repeat(auto-fit, minmax(13rem, 1fr)); }
.case p { margin: .2rem 0; } .case img { width: 200px; height: auto; border-radius: 4px; }
.label { font-size: .78rem; text-transform: uppercase; letter-spacing: .04em; opacity: .7; }
figure { margin: 1rem 0; background: #fff; border-radius: 6px; padding: .5rem; }
figure img { max-width: 100%; height: auto; } figcaption { color: #444; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .8rem; font-size: .8rem; }
pre { background: var(--soft); border-radius: 6px; }
@media (max-width: 50rem) { .case, .several { grid-template-columns: 1fr; } }
@media print {
  @page { size: A4 landscape; margin: 10mm; }
  :root { color-scheme: light; } body { margin: 0; max-width: none; padding: 0; font-size: 9pt; }
  .wide { overflow: visible; } table { width: 100%; font-size: 7.5pt; } thead { display: table-header-group; }
  th, td { padding: .1rem .25rem; white-space: normal; overflow-wrap: anywhere; }
  tr, figure, .case { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .case { grid-template-columns: auto 1fr 1fr; }
  .several { grid-template-columns: 200px repeat(auto-fit, minmax(13rem, 1fr)); }
}
"""


def page(
    summary: Summary,
    texts: Mapping[str, Sequence[str]],
    drawings: Mapping[str, bytes] | None,
    environment: Mapping[str, Any],
    thumbnail: Thumbnail,
    found: Sequence[Disagreement] = (),
) -> str:
    """Return the page as HTML.

    Args:
        summary: results.
        texts: N texts of each model.
        drawings: SVG files by heading, of :func:`plots`; None if matplotlib is missing.
        environment: versions, machine, command.
        thumbnail: returns the [h, w] uint8 image of a case by its number, or None.
        found: disagreements of several models, the largest first.
    """
    notes = "".join(f"<li>{escape(note)}</li>" for note in [*summary.notes(), *summary.weak()])
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">",
        f"<title>Benchmark: {escape(summary.heading)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Benchmark: {escape(summary.heading)}</h1>",
        f'<p class="notice">{escape(NOTICE)} This page holds reports, and images, of the data set: it is as '
        "confidential as that.</p>",
        f"<p>{escape(summary.caption)}</p>",
        f"<ul>{notes}</ul>" if notes else "",
    ]
    first, *rest = summary.sections()
    parts.append(_table(first))
    parts += _disagreements(summary, texts, found, thumbnail)
    parts += _plots(drawings)
    parts += [_table(section) for section in rest]
    parts += _cases(summary, texts, thumbnail)
    parts.append("<h2>Choices, environment, command</h2>")
    parts.append(f"<pre>{escape(chr(10).join(summary.signatures()))}</pre>")
    parts.append(f"<pre>{escape(json.dumps(environment, indent=2, ensure_ascii=False))}</pre></body></html>\n")
    return "\n".join(part for part in parts if part)


def _table(section: Section) -> str:
    head, *rows = section.cells
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    note = f'<p class="note">{escape(section.note).replace(chr(10), "<br>")}</p>' if section.note else ""
    columns = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return (
        f'<h2>{escape(section.heading)}</h2><div class="wide"><table><thead><tr>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{note}"
    )


def _plots(drawings: Mapping[str, bytes] | None) -> list[str]:
    if drawings is None:
        return ["<p class=\"note\">No plots: matplotlib is not installed (pip install 'llava-rad[plot]').</p>"]
    return [
        f'<figure><img alt="{escape(heading)}" src="data:image/svg+xml;base64,{base64.b64encode(data).decode()}">'
        f"<figcaption>{escape(heading)}</figcaption></figure>"
        for heading, data in drawings.items()
    ]


def _disagreements(
    summary: Summary, texts: Mapping[str, Sequence[str]], found: Sequence[Disagreement], thumbnail: Thumbnail
) -> list[str]:
    """Return the reports of all models side by side, of the cases that they disagree most about."""
    shown = [one for one in found[:_DISAGREEMENTS] if one.value > 0]
    if not shown:
        return []
    agreed = sum(one.value == 0 for one in found)
    parts = [
        "<h2>Disagreements of the models</h2>",
        '<p class="note">Largest first, by the metric findings between the models: 0 is the same report. The reference '
        f"decides who is right. {len(shown)} of {len(found):,} cases; equal reports: {agreed:,}; all of them: "
        "disagreements.jsonl.</p>",
    ]
    for one in shown:
        case = summary.task.cases[one.case]
        differing = "<br>".join(
            f"{escape(finding)}: {escape(', '.join(names))}" for finding, names in one.positive.items()
        )
        columns = "".join(
            f'<div><p class="label">{escape(name)}</p><p>{escape(column[one.case]) or "<i>nothing</i>"}</p></div>'
            for name, column in texts.items()
        )
        parts.append(
            f'<div class="case several"><div>{_image(thumbnail(one.case))}<p class="note">{escape(case.id)}<br>'
            f"disagreement {one.value:.2f}<br>{differing}</p></div>{columns}"
            f'<div><p class="label">Reference</p><p>{escape(case.reference)}</p></div></div>'
        )
    return parts


def _cases(summary: Summary, texts: Mapping[str, Sequence[str]], thumbnail: Thumbnail) -> list[str]:
    """Return the worst and best reports of each model by RG_ER, or by ROUGE-L if RG_ER was not computed."""
    parts = []
    for model in summary.scored.evaluation.models:
        if model.name not in summary.scored.models:
            continue
        values = {name: column for one in model.scores.values() for name, column in one.per_sample.items()}
        key = next((name for name in ("rg_er", "rouge_l", *values) if name in values), None)
        if key is None:
            continue
        order = sorted(range(len(summary.task.cases)), key=lambda row: (values[key][row], row))
        worst, best = order[:_SHOWN], [row for row in reversed(order[-_SHOWN:]) if row not in order[:_SHOWN]]
        for heading, rows in (("Worst", worst), ("Best", best)):
            if rows:
                parts.append(f"<h2>{heading} reports of {escape(model.name)} by {escape(title(key))}</h2>")
                parts += [_case(summary, row, texts[model.name][row], values, thumbnail) for row in rows]
    return parts


def _case(
    summary: Summary, row: int, text: str, values: Mapping[str, npt.NDArray[np.float64]], thumbnail: Thumbnail
) -> str:
    case = summary.task.cases[row]
    shown = [name for name in ("rouge_l", "rg_er", "bertscore_f1") if name in values]
    numbers = ", ".join(f"{title(name)} {100 * values[name][row]:.1f}" for name in shown)
    return (
        f'<div class="case"><div>{_image(thumbnail(row))}<p class="note">{escape(case.id)}<br>{escape(numbers)}</p>'
        f'</div><div><p class="label">AI draft</p><p>{escape(text) or "<i>nothing</i>"}</p></div>'
        f'<div><p class="label">Reference</p><p>{escape(case.reference)}</p></div></div>'
    )


def _image(pixels: npt.NDArray[np.uint8] | None) -> str:
    """Return an image at most 256 pixels wide and high, or "" if there is none."""
    if pixels is None:
        return ""
    from PIL import Image

    out, image = io.BytesIO(), Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    image.save(out, format="PNG")
    return f'<img alt="radiograph" src="data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}">'


def plots(summary: Summary) -> dict[str, bytes] | None:
    """Draw SVG files, by heading; None if matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        return None

    draw: dict[str, Callable[[Figure, Summary], bool]] = {
        SCORES: _scores,
        WORTH: _worth,
        CLASSES: _classes,
        REPORTS: _reports,
        leaderboard.FIGURE: _boards,
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
    """Draw one panel per score: median and interval of each system, and the paper's RAD-DINO as a band."""
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


def _boards(figure: Figure, summary: Summary) -> bool:
    """Draw the published rows of a leaderboard with our models."""
    return leaderboard.draw(figure, summary.task, summary.scored.evaluation, summary.scored.models)


def _worth(figure: Figure, summary: Summary) -> bool:
    """Draw one panel per score: difference and interval of each added input."""
    worths = [one for one in summary.scored.worths if one.reports]
    columns = [name for name in summary.columns if any(name in one.differences for one in worths)]
    if not columns:
        return False
    several = len({one.model for one in worths}) > 1
    labels = [f"{one.model}: " * several + f"{one.to.label} + {one.label} (n={one.reports:,})" for one in worths]
    figure.set_size_inches(max(5.0, 2.4 * len(columns) + 3.5), 1.0 + 0.32 * len(worths))
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, columns, strict=True):
        axes.axvline(0, color="0.5", lw=1)
        for row, worth in enumerate(worths):
            one = worth.differences.get(name)
            if one is not None and one.median is not None and one.low is not None and one.high is not None:
                axes.plot([100 * one.low, 100 * one.high], [row, row], color="C0", lw=2)
                axes.plot(100 * one.median, row, "o", color="C0", ms=5)
        axes.set_title(title(name).replace("CheXbert ", "").replace(" (not CheXbert)", ""))
        axes.set_yticks(range(len(worths)), labels)
        axes.grid(axis="x", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.supxlabel("last input: with minus without, x 100, median and 95 % interval by patient", fontsize=8)
    return True


def _classes(figure: Figure, summary: Summary) -> bool:
    """Draw the F1 of each class and model by CheXbert, or by the labeler ``rules`` if CheXbert was not computed."""
    models = [one for one in summary.scored.evaluation.models if one.name in summary.scored.models]
    labelers = registry.labelers()
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
    """Draw histograms of the scores of single reports."""
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
