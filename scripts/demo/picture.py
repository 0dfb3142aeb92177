"""Random cases on one picture: image, NIH's labels, the text that the model wrote."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scripts.demo.features import read_image
from scripts.demo.labeler import label_text
from scripts.demo.nih import Case

CASES, COLUMNS = 12, 4


def draw_cases(file: Path, cases: Sequence[Case], reports: Sequence[str], seed: int = 0) -> None:
    """Draw ``CASES`` of the cases, chosen at random. Needs matplotlib (the extra ``plot``).

    Args:
        file: PNG to write.
        cases: images with labels.
        reports: one for each.
        seed: of the choice.
    """
    from matplotlib.figure import Figure

    chosen = np.random.default_rng(seed).permutation(len(cases))[:CASES].tolist()
    rows = -(-len(chosen) // COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 5.4 * rows))
    figure.subplots_adjust(left=0.01, right=0.99, top=0.95, bottom=0.09, wspace=0.08, hspace=0.42)
    for place, number in enumerate(chosen):
        axes = figure.add_subplot(rows, COLUMNS, place + 1)
        axes.imshow(read_image(cases[number].path), cmap="gray")
        axes.set_axis_off()
        labels, said = cases[number].labels, label_text(reports[number])
        axes.set_title(
            f"NIH: {_listed(labels)}\nsaid: {_listed(said)}",
            fontsize=9,
            color="tab:green" if labels == said else "black",
        )
        text = "\n".join(textwrap.wrap(reports[number], 62))
        axes.text(0, -0.03, text, fontsize=8, va="top", transform=axes.transAxes)
    figure.savefig(file, dpi=80)


def _listed(labels: frozenset[str]) -> str:
    return "\n".join(textwrap.wrap(", ".join(sorted(labels)).replace("_", " ") or "no finding", 46))
