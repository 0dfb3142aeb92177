"""The results as one HTML file that asks for nothing outside itself: tables, plots, worst and best cases."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from llava_rad.benchmark.summary import Section, Summary
from metrics.tables import NOTICE, title

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Thumbnail = Callable[[int], npt.NDArray[np.uint8] | None]

_SHOWN = 5
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
.case p { margin: .2rem 0; } .case img { width: 200px; height: auto; border-radius: 4px; }
.label { font-size: .78rem; text-transform: uppercase; letter-spacing: .04em; opacity: .7; }
figure { margin: 1rem 0; background: #fff; border-radius: 6px; padding: .5rem; }
figure img { max-width: 100%; height: auto; } figcaption { color: #444; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .8rem; font-size: .8rem; }
pre { background: var(--soft); border-radius: 6px; }
@media (max-width: 50rem) { .case { grid-template-columns: 1fr; } }
"""


def page(
    summary: Summary,
    texts: Mapping[str, Sequence[str]],
    drawings: Mapping[str, bytes] | None,
    environment: Mapping[str, Any],
    thumbnail: Thumbnail,
) -> str:
    """Write the page.

    Args:
        summary: the tables.
        texts: of the models, N each.
        drawings: SVG files by heading; None where they could not be drawn.
        environment: versions, machine, command.
        thumbnail: from a case's number to its [S, S] uint8 image, or None.
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


def _cases(summary: Summary, texts: Mapping[str, Sequence[str]], thumbnail: Thumbnail) -> list[str]:
    """For each model its worst and best reports by RG_ER, or by ROUGE-L where that was not computed."""
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
    pixels = thumbnail(row)
    image = f'<img alt="radiograph" src="data:image/png;base64,{_png(pixels)}">' if pixels is not None else ""
    return (
        f'<div class="case"><div>{image}<p class="note">{escape(case.id)}<br>{escape(numbers)}</p></div>'
        f'<div><p class="label">AI draft</p><p>{escape(text) or "<i>nothing</i>"}</p></div>'
        f'<div><p class="label">Reference</p><p>{escape(case.reference)}</p></div></div>'
    )


def _png(pixels: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS).save(out, format="PNG")
    return base64.b64encode(out.getvalue()).decode()
