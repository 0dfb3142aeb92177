"""Demographics from encoders' vectors, with the paper's tables beside them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from encoder.probing.published import ACCURACY
from llava_rad.probes.folder import ProbeTable


def table(found: Mapping[str, Mapping[str, Any]], *, all_images: bool) -> ProbeTable:
    """Accuracy as mean (standard deviation over folds) for each variable and encoder.

    Args:
        found: encoder -> {"variables": {variable -> facts of a DemographicsResult}}.
        all_images: whether images with findings were taken, too.
    """
    cells = [["variable", "images", "subjects", "most frequent class", *found, "paper: RAD-DINO", "paper: BiomedCLIP"]]
    first = next(iter(found.values()))["variables"]
    for variable, one in first.items():
        numbers = [_shown(other["variables"][variable]["accuracy"]) for other in found.values()]
        papers = [
            f"{row[variable].mean:.1f} ({row[variable].sd:.1f})"
            for row in (ACCURACY["RAD-DINO"], ACCURACY["BiomedCLIP"])
        ]
        counts = [f"{one['images']:,}", f"{one['subjects']:,}"]
        cells.append([variable, *counts, _shown(one["most_frequent"]), *numbers, *papers])
    which = "all images" if all_images else "images without findings"
    notes = (
        f"Accuracy x 100 on {which}, mean (standard deviation) of 5 folds that divide no subject; scikit-learn's "
        "LogisticRegression, at most 100 iterations (paper, E.3.4).",
        "The paper's numbers are of 60.1 thousand MIMIC-CXR images without findings.",
    )
    return ProbeTable("Demographics from image vectors", cells, notes)


def heights(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Accuracy of each variable and encoder for the plot."""
    return {
        name: {
            variable: (100 * statistics.mean(result["accuracy"]), 100 * statistics.stdev(result["accuracy"]))
            for variable, result in one["variables"].items()
        }
        for name, one in found.items()
    }


def _shown(values: Sequence[float]) -> str:
    return f"{100 * statistics.mean(values):.1f} ({100 * statistics.stdev(values):.1f})"
