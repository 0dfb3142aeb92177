"""The images of studies, each once: those of the pairs, then other laterals and priors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from encoder.datasets.manifest import Row
from llava_rad.model.templates import KINDS
from llava_rad.reports.pairs import Pair

CONTEXT_IMAGES = KINDS[1:]


@dataclass(frozen=True)
class StudyImages:
    """Images of the pairs, each once.

    Attributes:
        rows: those of the pairs, in their order, then the other laterals and priors.
        further: for each pair the position in ``rows`` of its images by kind.
    """

    rows: list[Row]
    further: list[dict[str, int]]

    @classmethod
    def of(cls, pairs: Sequence[Pair], inputs: Collection[str]) -> StudyImages:
        """List the images that the inputs take."""
        rows = [pair.row for pair in pairs]
        places: dict[Path, int] = {}
        for number, row in enumerate(rows):
            places.setdefault(row.path, number)
        further: list[dict[str, int]] = []
        for pair in pairs:
            found: dict[str, int] = {}
            for kind in CONTEXT_IMAGES:
                path = getattr(pair.context, kind)
                if kind not in inputs or path is None:
                    continue
                if path not in places:
                    places[path] = len(rows)
                    row = pair.row
                    rows.append(Row(path, row.dataset, row.subject, "", "", split=row.split, number=row.number))
                found[kind] = places[path]
            further.append(found)
        return cls(rows, further)
