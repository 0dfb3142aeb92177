"""The registry of data sets: one row for each module that reads a public layout into rows of a manifest.

To add a data set, write its module in this folder and add a row to :data:`DATASETS`: ``llava-rad manifest``,
``llava-rad doctor`` and the reference list what is registered here. Modules are named, not imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from encoder.datasets.manifest import Count, Row, check_unique
from encoder.datasets.masks import MaskFiles
from encoder.datasets.splits import CLASSIFICATION, LATERAL, SEGMENTATION, Shares, select, split_by_subject
from encoder.errors import LlavaRadError


@dataclass(frozen=True)
class Published:
    """The images that the paper trained on (table D.1).

    Attributes:
        count: images and subjects.
        views: of these views only; None: all.
        splits: of these splits only; None: all.
        note: a remark on the numbers.
    """

    count: Count
    views: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    note: str = ""

    def of(self, rows: Sequence[Row]) -> Count:
        """Count our rows in the same way."""
        kept = select(rows, views=self.views, splits=self.splits).rows
        return Count(len(kept), len({row.subject for row in kept} - {""}))


@dataclass(frozen=True)
class DataSet:
    """A data set whose layout is known.

    Attributes:
        name: on the command line.
        title: a few words about it.
        reader: ``"module:function"`` of a function from the data set's folder to its rows, which raises LlavaRadError
            if a file is missing. The module is in this package unless its name has a dot.
        draws: the function also takes a MaskFiles and a seed: it draws masks, or images at random.
        tells: the function also takes a function for notes on what it reads.
        own: the function also takes the names of columns, and a function for notes on what it reads.
        published: the paper's numbers, or None.
        shares: of the subjects in train, val and test, where the data set itself makes no splits; None makes none.
    """

    name: str
    title: str
    reader: str
    draws: bool = False
    tells: bool = False
    own: bool = False
    published: Published | None = None
    shares: Shares | None = None

    def rows(
        self,
        root: Path,
        masks: MaskFiles | None = None,
        *,
        seed: int = 0,
        shares: Shares | None = None,
        columns: Mapping[str, Sequence[str]] | None = None,
        say: Callable[[str], None] = lambda message: None,
    ) -> tuple[list[Row], int]:
        """Read the rows whose files exist, and count the other rows of its table: downloads are often partial.

        Args:
            root: the data set's top folder.
            masks: destination of masks that the data set has in another form; None draws none.
            seed: of random draws and of the split.
            shares: makes a new split by subject, whatever the data set has.
            columns: names of a user's own columns, see :func:`encoder.datasets.generic.read_table`.
            say: called with notes on what is read.

        Raises:
            LlavaRadError: if the folder, a table or every image is missing, or an image comes twice.
        """
        root = Path(os.path.normpath(root.absolute()))
        if not root.exists():
            raise LlavaRadError(f"{self.title}: the folder does not exist")
        read = self._function()
        more = (
            (masks or MaskFiles(), seed) if self.draws else (columns, say) if self.own else (say,) if self.tells else ()
        )
        rows = list(read(root, *more))
        check_unique(rows, of=self.title)
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

    def _function(self) -> Callable[..., Iterator[Row]]:
        module, _, name = self.reader.partition(":")
        found: Callable[..., Iterator[Row]] = getattr(
            import_module(module if "." in module else f"{__package__}.{module}"), name
        )
        return found


_MIMIC = Published(
    Count(210_491, 188_546),
    views=("frontal",),
    splits=("train",),
    note="frontal images of the training split; the paper's subjects are more than the data set has patients",
)
_BRAX, _CHEXPERT = Published(Count(41_620, 19_351)), Published(Count(223_648, 65_240))
_NIH, _PADCHEST = Published(Count(112_120, 32_717)), Published(Count(160_817, 67_000))
DATASETS: dict[str, DataSet] = {
    one.name: one
    for one in (
        DataSet("brax", "BRAX", "brax:read", published=_BRAX),
        DataSet("chexpert", "CheXpert", "chexpert:read", published=_CHEXPERT),
        DataSet("mimic-cxr", "MIMIC-CXR (DICOM)", "mimic_cxr:read_dicom", published=_MIMIC),
        DataSet("mimic-cxr-jpg", "MIMIC-CXR-JPG", "mimic_cxr:read_jpeg", published=_MIMIC),
        DataSet("chestxray14", "NIH ChestX-ray14", "chestxray14:read", published=_NIH),
        DataSet("padchest", "PadChest", "padchest:read", published=_PADCHEST),
        DataSet("vindr-cxr", "VinDr-CXR", "vindr_cxr:read"),
        DataSet("candid-ptx", "CANDID-PTX", "candid_ptx:read", draws=True, shares=CLASSIFICATION),
        DataSet(
            "rsna-pneumonia", "RSNA Pneumonia Detection", "rsna_pneumonia:read", draws=True, shares=CLASSIFICATION
        ),
        DataSet(
            "padchest-lateral", "PadChest, lateral findings", "padchest:read_lateral", draws=True, shares=LATERAL
        ),
        DataSet(
            "mimic-cxr-lungs", "lungs and lung zones on MIMIC-CXR", "mimic_cxr_lungs:read", draws=True,
            shares=SEGMENTATION,
        ),
        DataSet(
            "mimic-cxr-no-finding", "MIMIC-CXR without findings, with MIMIC-IV", "mimic_iv:read_no_finding", tells=True
        ),
        DataSet("vindr-ribcxr", "VinDr-RibCXR", "vindr_ribcxr:read", draws=True),
        DataSet("nih-sample", "a prepared sample of ChestX-ray14", "chestxray14:read_sample"),
        DataSet("kermany", "Kermany, pneumonia in children", "kermany:read"),
        DataSet(
            "shenzhen", "Shenzhen, tuberculosis", "tuberculosis:read_shenzhen", draws=True, shares=SEGMENTATION
        ),
        DataSet(
            "montgomery", "Montgomery, tuberculosis", "tuberculosis:read_montgomery", draws=True, shares=SEGMENTATION
        ),
        DataSet("covid", "covid-chestxray", "covid:read", draws=True, shares=SEGMENTATION),
        DataSet("folder", "any folder of images", "generic:read_folder"),
        DataSet("table", "any table of images", "generic:read_table", own=True),
    )
}  # fmt: skip
"""Name on the command line -> data set."""


def published_for(dataset: str) -> Published | None:
    """Look up the paper's numbers for the data set that rows of a manifest name; None where it has none."""
    found = DATASETS.get(dataset)
    return None if found is None else found.published
