"""The data sets of image-report pairs whose layouts are known, with the paper's numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from encoder.datasets.splits import disjoint
from encoder.errors import LlavaRadError
from llava_rad.reports import iu_xray, mimic_cxr
from llava_rad.reports.extraction import Found, Places, Progress, in_threads, no_progress, there
from llava_rad.reports.pairs import Pair, read_pairs
from llava_rad.reports.splits import redraw_validation

TABLES = ("pairs.jsonl", "pairs.csv")


@dataclass(frozen=True)
class PairSet:
    """A data set of image-report pairs.

    Attributes:
        name: on the command line.
        title: what it is, in a few words.
        read: finds its pairs; raises LlavaRadError naming what it misses.
        published: pairs of each split in the paper (2.2.1, E.3.3).
        exact: splits whose published number the complete data set must give.
        after: numbers that the complete data set must have at a step of the filters.
        val_share: share of the validation pairs that is drawn by subject; 0 leaves the splits as they are.
    """

    name: str
    title: str
    read: Callable[[Places, Progress], Found]
    published: dict[str, int] = field(default_factory=dict)
    exact: tuple[str, ...] = ()
    after: dict[str, int] = field(default_factory=dict)
    val_share: float = 0.0

    def find(
        self, places: Places, *, val_share: float | None = None, seed: int = 0, progress: Progress = no_progress
    ) -> Found:
        """The pairs with their splits.

        Args:
            places: of the data set's parts.
            val_share: in place of the data set's own; 0 leaves the splits as they are.
            seed: of the validation split.
            progress: told what is being done.

        Raises:
            LlavaRadError: a part is missing, no pair is left, or a subject stands in two splits.
        """
        if not places.root.exists():
            raise LlavaRadError(f"{self.title}: the folder does not exist")
        found = self.read(places, progress)
        if not found.pairs:
            last = next((name for name, left in found.steps.items() if not left), "in the table of images")
            raise LlavaRadError(
                f"{self.title}: no pair is left after the filter '{last}'",
                hint="name the data set's top folder; --reports and --tables name what lies elsewhere",
            )
        disjoint(pair.row for pair in found.pairs)
        share = self.val_share if val_share is None else val_share
        if not share:
            return found
        pairs = redraw_validation(found.pairs, share, seed)
        disjoint(pair.row for pair in pairs)
        return replace(found, pairs=pairs)

    def fault(self, found: Found) -> str | None:
        """What is wrong with the numbers of a complete data set, or None; nothing is known of an incomplete one."""
        if not found.whole or found.missing:
            return None
        by_split = counts(found.pairs)
        wanted = [(f"pairs of the split {name}", by_split.get(name, 0), self.published[name]) for name in self.exact]
        wanted += [(f"images after '{name}'", found.steps[name], number) for name, number in self.after.items()]
        return next((f"{is_:,} {what} where there must be {must:,}" for what, is_, must in wanted if is_ != must), None)


def counts(pairs: list[Pair]) -> dict[str, int]:
    """Pairs of each split."""
    number: dict[str, int] = {}
    for pair in pairs:
        number[pair.row.split] = number.get(pair.row.split, 0) + 1
    return number


def read_table(places: Places, progress: Progress) -> Found:
    """Any table of images and texts, as :func:`llava_rad.reports.pairs.read_pairs` takes them."""
    root = places.root
    file = next((root / name for name in TABLES if there(root / name)), None) if root.is_dir() else root
    if file is None:
        raise LlavaRadError(f"there is no {' or '.join(TABLES)} in the folder", hint="name the table itself")
    table = read_pairs(file)
    not_lateral = [pair for pair in table if pair.row.view != "lateral"]
    present = in_threads(lambda pair: there(pair.row.path), not_lateral, progress("images", len(not_lateral)))
    pairs = [pair for pair, is_there in zip(not_lateral, present, strict=True) if is_there]
    steps = {"in the table": len(table), "not lateral": len(not_lateral), "image file there": len(pairs)}
    return Found(pairs, steps, len(not_lateral) - len(pairs), "the table", (file,))


_MIMIC = {"train": 146_909, "val": 7_250, "test": 2_461}
_SHARE = _MIMIC["val"] / (_MIMIC["train"] + _MIMIC["val"])
DATASETS: dict[str, PairSet] = {
    one.name: one
    for one in (
        PairSet("mimic-cxr", "MIMIC-CXR (DICOM)", mimic_cxr.read_dicom, _MIMIC, ("test",), val_share=_SHARE),
        PairSet("mimic-cxr-jpg", "MIMIC-CXR-JPG", mimic_cxr.read_jpeg, _MIMIC, ("test",), val_share=_SHARE),
        PairSet(
            "iu-xray",
            "IU-Xray (Kaggle, Open-i)",
            iu_xray.read,
            {"test": 3_306},
            ("test",),
            {iu_xray.WITH_FINDINGS: 3_307},
        ),
        PairSet("table", "any CSV or JSONL file of images and texts", read_table),
    )
}


def places(root: Path, reports: Path | None = None, tables: Path | None = None) -> Places:
    """Absolute places without ``..``; symbolic links stay, since data sets are often reached through them."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else Path(os.path.normpath(path.absolute()))

    return Places(absolute(root) or root, absolute(reports), absolute(tables))
