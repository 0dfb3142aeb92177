"""One small module for each data set: from its own layout of files and tables to rows of a manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from encoder.datasets import brax, chestxray14, chexpert, folder, mimic_cxr, padchest, table
from encoder.errors import LlavaRadError
from encoder.manifest import Count, Row, select


@dataclass(frozen=True)
class Published:
    """What the paper trained on (table D.1), to put beside one's own counts.

    Attributes:
        count: images and subjects.
        views: of these views only; None: all.
        splits: of these splits only; None: all.
        note: what must be known about the numbers.
    """

    count: Count
    views: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    note: str = ""

    def of(self, rows: Sequence[Row]) -> Count:
        """The same count of our rows."""
        kept = select(rows, views=self.views, splits=self.splits).rows
        return Count(len(kept), len({row.subject for row in kept} - {""}))


@dataclass(frozen=True)
class Adapter:
    """A data set whose layout is known.

    Attributes:
        name: on the command line.
        title: what it is, in a few words.
        read: yields the rows of the data set in a folder; raises LlavaRadError naming the file that it misses.
        published: the paper's numbers, or None.
    """

    name: str
    title: str
    read: Callable[[Path], Iterator[Row]]
    published: Published | None = None

    def rows(self, root: Path) -> tuple[list[Row], int]:
        """The rows whose files are there, and how many of the table's files are not: downloads are often partial.

        Raises:
            LlavaRadError: the folder or a table is missing, or all images are.
        """
        root = Path(os.path.normpath(root.absolute()))
        if not root.exists():
            raise LlavaRadError(f"{self.title}: the folder does not exist")
        rows = list(self.read(root))
        there = [row for row in rows if row.path.is_file()]
        if not there:
            raise LlavaRadError(
                f"{self.title}: none of the {len(rows):,} images of its table is in the folder",
                hint="name the data set's top folder, in which the table lies",
            )
        return there, len(rows) - len(there)


_MIMIC = Published(
    Count(210_491, 188_546),
    views=("frontal",),
    splits=("train",),
    note="frontal images of the training split; the paper's subjects are more than the data set has patients",
)
DATASETS: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        Adapter("brax", "BRAX", brax.read, Published(Count(41_620, 19_351))),
        Adapter("chexpert", "CheXpert", chexpert.read, Published(Count(223_648, 65_240))),
        Adapter("mimic-cxr", "MIMIC-CXR (DICOM)", mimic_cxr.read_dicom, _MIMIC),
        Adapter("mimic-cxr-jpg", "MIMIC-CXR-JPG", mimic_cxr.read_jpeg, _MIMIC),
        Adapter("chestxray14", "NIH ChestX-ray14", chestxray14.read, Published(Count(112_120, 32_717))),
        Adapter("padchest", "PadChest", padchest.read, Published(Count(160_817, 67_000))),
        Adapter("folder", "any folder of images", folder.read),
        Adapter("table", "any folder with a table labels.csv or metadata.csv of its images", table.read),
    )
}


def published_for(dataset: str) -> Published | None:
    """The paper's numbers for the data set that rows of a manifest name, or None."""
    adapter = DATASETS.get(dataset)
    return None if adapter is None else adapter.published
