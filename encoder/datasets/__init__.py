"""One small module for each data set: from its own layout of files and tables to rows of a manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from encoder.datasets import (
    brax,
    candid_ptx,
    chestxray14,
    chexpert,
    covid,
    folder,
    kermany,
    mimic_cxr,
    mimic_cxr_lungs,
    mimic_iv,
    nih_sample,
    padchest,
    padchest_lateral,
    rsna_pneumonia,
    table,
    tuberculosis,
    vindr_cxr,
    vindr_ribcxr,
)
from encoder.datasets.manifest import Count, Row, select
from encoder.datasets.mask_files import MaskFiles
from encoder.datasets.splits import CLASSIFICATION, LATERAL, SEGMENTATION, Shares, split_by_subject
from encoder.errors import LlavaRadError


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
        read: yields the rows of the data set in a folder; draws its masks; takes the seed of what it draws by chance.
            Raises LlavaRadError naming the file that it misses.
        published: the paper's numbers, or None.
        shares: of the subjects in train, val and test, where the data set itself makes no splits; None leaves it so.
    """

    name: str
    title: str
    read: Callable[[Path, MaskFiles, int], Iterator[Row]]
    published: Published | None = None
    shares: Shares | None = None

    def rows(
        self, root: Path, masks: MaskFiles | None = None, *, seed: int = 0, shares: Shares | None = None
    ) -> tuple[list[Row], int]:
        """The rows whose files are there, and how many of the table's files are not: downloads are often partial.

        Args:
            root: the data set's top folder.
            masks: where masks are drawn that the data set has in another form; None draws none.
            seed: of what is drawn by chance, and of the split.
            shares: makes a new split by subject, whatever the data set has.

        Raises:
            LlavaRadError: the folder or a table is missing, or all images are.
        """
        root = Path(os.path.normpath(root.absolute()))
        if not root.exists():
            raise LlavaRadError(f"{self.title}: the folder does not exist")
        rows = list(self.read(root, masks or MaskFiles(), seed))
        there = [row for row in rows if row.path.is_file()]
        if not there:
            raise LlavaRadError(
                f"{self.title}: none of the {len(rows):,} images of its table is in the folder",
                hint="name the data set's top folder, in which the table lies",
            )
        missing = len(rows) - len(there)
        if shares is None and not any(row.split for row in there):
            shares = self.shares
        return there if shares is None else split_by_subject(there, shares, seed), missing


def _plain(read: Callable[[Path], Iterator[Row]]) -> Callable[[Path, MaskFiles, int], Iterator[Row]]:
    """A reader that draws neither masks nor anything by chance."""
    return lambda root, masks, seed: read(root)


_MIMIC = Published(
    Count(210_491, 188_546),
    views=("frontal",),
    splits=("train",),
    note="frontal images of the training split; the paper's subjects are more than the data set has patients",
)
DATASETS: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        Adapter("brax", "BRAX", _plain(brax.read), Published(Count(41_620, 19_351))),
        Adapter("chexpert", "CheXpert", _plain(chexpert.read), Published(Count(223_648, 65_240))),
        Adapter("mimic-cxr", "MIMIC-CXR (DICOM)", _plain(mimic_cxr.read_dicom), _MIMIC),
        Adapter("mimic-cxr-jpg", "MIMIC-CXR-JPG", _plain(mimic_cxr.read_jpeg), _MIMIC),
        Adapter("chestxray14", "NIH ChestX-ray14", _plain(chestxray14.read), Published(Count(112_120, 32_717))),
        Adapter("padchest", "PadChest", _plain(padchest.read), Published(Count(160_817, 67_000))),
        Adapter("vindr-cxr", "VinDr-CXR", _plain(vindr_cxr.read)),
        Adapter("candid-ptx", "CANDID-PTX", candid_ptx.read, shares=CLASSIFICATION),
        Adapter("rsna-pneumonia", "RSNA Pneumonia Detection", rsna_pneumonia.read, shares=CLASSIFICATION),
        Adapter("padchest-lateral", "PadChest, lateral findings", padchest_lateral.read, shares=LATERAL),
        Adapter("mimic-cxr-lungs", "lungs and lung zones on MIMIC-CXR", mimic_cxr_lungs.read, shares=SEGMENTATION),
        Adapter("mimic-cxr-no-finding", "MIMIC-CXR without findings, with MIMIC-IV", mimic_iv.read_no_finding),
        Adapter("vindr-ribcxr", "VinDr-RibCXR", vindr_ribcxr.read),
        Adapter("nih-sample", "a prepared sample of ChestX-ray14", _plain(nih_sample.read)),
        Adapter("kermany", "Kermany, pneumonia in children", _plain(kermany.read)),
        Adapter("shenzhen", "Shenzhen, tuberculosis", tuberculosis.read_shenzhen, shares=SEGMENTATION),
        Adapter("montgomery", "Montgomery, tuberculosis", tuberculosis.read_montgomery, shares=SEGMENTATION),
        Adapter("covid", "covid-chestxray", covid.read, shares=SEGMENTATION),
        Adapter("folder", "any folder of images", _plain(folder.read)),
        Adapter("table", "any folder with a table labels.csv or metadata.csv of its images", _plain(table.read)),
    )
}


def published_for(dataset: str) -> Published | None:
    """The paper's numbers for the data set that rows of a manifest name, or None."""
    adapter = DATASETS.get(dataset)
    return None if adapter is None else adapter.published
