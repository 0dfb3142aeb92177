"""Cases of other sets than NIH's for the report model: only what their labels say, the rest unknown.

A set is taken only if its images have both classes: of one class alone, a model would learn the hospital. Shenzhen and
Montgomery are left out: their second class is tuberculosis, which is none of the 14 findings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from encoder.datasets.manifest import Row, read_manifest
from encoder.errors import ModelError
from encoder.reader.views import FRONTAL
from scripts.demo.growth import openly_licensed
from scripts.demo.nih import LABELS, Case

PNEUMONIA = "Pneumonia"
NORMAL = {"kermany": "Normal", "covid": "No Finding"}
"""Set -> its label of images without any finding."""


def more_cases(name: str, manifests: Mapping[str, Path], most: int) -> list[Case]:
    """Read training cases of a set: pneumonia with every other finding unknown, and normal images.

    Args:
        name: key of ``NORMAL``.
        manifests: of ``scripts.demo.pretraining.write_manifests``.
        most: cases of each of the two classes, the first of each patient, evenly spread.

    Raises:
        ModelError: if the set is missing, or has one of the classes alone.
    """
    if name not in NORMAL or name not in manifests:
        raise ModelError(f"the data folder has no set {name!r} with labels for reports")
    rows = [row for row in read_manifest(manifests[name]) if row.split == "train" and row.view in FRONTAL]
    if name == "covid":
        rows = [row for row in rows if openly_licensed(row)]
    firsts = list({row.subject: row for row in reversed(rows)}.values())[::-1]
    normal = [row for row in firsts if row.labels.get(NORMAL[name]) == 1]
    ill = [row for row in firsts if row.labels.get(PNEUMONIA) == 1]
    if not normal or not ill:
        raise ModelError(f"the set {name!r} has images of one class alone")
    number = min(most, len(normal), len(ill))
    others = frozenset(LABELS) - {PNEUMONIA}
    return [
        *(Case(row.path, f"{name}/{row.subject}", frozenset(), {}) for row in _spread(normal, number)),
        *(Case(row.path, f"{name}/{row.subject}", frozenset({PNEUMONIA}), {}, others) for row in _spread(ill, number)),
    ]


def _spread(rows: Sequence[Row], number: int) -> list[Row]:
    return [rows[place * len(rows) // number] for place in range(number)]
