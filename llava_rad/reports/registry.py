"""The registry of data sets of image-report pairs, and the code that their readers share.

To add a data set, write its module in this folder and add a row to :data:`DATASETS`: ``llava-rad reports`` and the
reference list what is registered here. Modules are named, not imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from encoder.datasets.splits import disjoint, redraw_validation
from encoder.errors import LlavaRadError
from llava_rad.reports.pairs import CONTEXT_IMAGES, Pair, frontal, listed, read_dated
from llava_rad.reports.studies import Image, Key, Sections, join, key_of, moment

TABLES = ("pairs.jsonl", "pairs.csv")
WITH_FINDINGS = "Findings section in it"
"""Filter that leaves the images whose report has a Findings section."""
Progress = Callable[[str, int], Callable[[int], None]]
"""Function from a task's name and total to a function that is called with each completed amount."""
In = TypeVar("In")
Out = TypeVar("Out")
_THREADS = 16  # threads wait for a disk or a file server
_CHUNK = 256


@dataclass(frozen=True)
class Places:
    """Locations of the parts of a data set.

    Attributes:
        root: its top folder, absolute.
        reports: folder or table of the reports; None: near the images.
        tables: folder of the tables of images; None: the top folder.
        unknown_views: keep the pairs of a table whose stated view is not known.
        columns: names of a user's own columns, see :func:`llava_rad.reports.pairs.read_pairs`.
        say: called with notes on what is read.
    """

    root: Path
    reports: Path | None = None
    tables: Path | None = None
    unknown_views: bool = False
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    say: Callable[[str], None] = lambda message: None


@dataclass(frozen=True)
class Found:
    """The pairs of a data set, and their number after each filter.

    Attributes:
        pairs: in the order of the table of images.
        steps: remaining images by filter, in the order of the filters.
        missing: images dropped because their file does not exist.
        source: a few words on the origin of the texts.
        files: tables and folders that were read.
        whole: the tables are those of the complete public data set, whose numbers are known.
    """

    pairs: list[Pair]
    steps: dict[str, int]
    missing: int
    source: str
    files: tuple[Path, ...]
    whole: bool = False


def no_progress(what: str, total: int) -> Callable[[int], None]:
    """Show no progress."""
    return lambda done: None


def in_threads(work: Callable[[In], Out], items: Sequence[In], advance: Callable[[int], None]) -> list[Out]:
    """Map a function that waits for the disk over items in threads, and keep their order."""

    def several(start: int) -> list[Out]:
        return [work(item) for item in items[start : start + _CHUNK]]

    def counted(parts: Iterable[list[Out]]) -> Iterator[list[Out]]:
        for part in parts:
            advance(len(part))
            yield part

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(chain.from_iterable(counted(pool.map(several, range(0, len(items), _CHUNK)))))


def there(path: Path) -> bool:
    """Tell whether a file exists."""
    try:
        return path.is_file()
    except OSError:  # e.g. a parent folder that may not be entered
        return False


@dataclass(frozen=True)
class PairSet:
    """A data set of image-report pairs.

    Attributes:
        name: on the command line.
        title: a few words about it.
        reader: ``"module:function"`` of a function from :class:`Places` and :data:`Progress` to :class:`Found`, which
            raises LlavaRadError if a part is missing. The module is in this package unless its name has a dot.
        published: pairs of each split in the paper (2.2.1, E.3.3).
        exact: splits whose published number the complete data set must have.
        after: number of images that the complete data set must have after a filter.
        val_share: share of validation pairs that are drawn by subject; 0 leaves the splits as they are.
    """

    name: str
    title: str
    reader: str
    published: dict[str, int] = field(default_factory=dict)
    exact: tuple[str, ...] = ()
    after: dict[str, int] = field(default_factory=dict)
    val_share: float = 0.0

    def find(
        self, places: Places, *, val_share: float | None = None, seed: int = 0, progress: Progress = no_progress
    ) -> Found:
        """Find the pairs and their splits.

        Args:
            places: locations of the data set's parts.
            val_share: replaces the data set's own; 0 leaves the splits as they are.
            seed: of the validation split.
            progress: shows the progress of each task.

        Raises:
            LlavaRadError: if a part is missing, no pair is left, or a subject is in two splits.
        """
        if not places.root.exists():
            raise LlavaRadError(f"{self.title}: the folder does not exist")
        module, _, name = self.reader.partition(":")
        read = getattr(import_module(module if "." in module else f"{__package__}.{module}"), name)
        found: Found = read(places, progress)
        if not found.pairs:
            last = next((name for name, left in found.steps.items() if not left), "in the table of images")
            raise LlavaRadError(
                f"{self.title}: no pair is left after the filter '{last}'",
                hint="name the data set's top folder; --reports and --tables name parts that are elsewhere",
            )
        disjoint(pair.row for pair in found.pairs)
        share = self.val_share if val_share is None else val_share
        if not share:
            return found
        rows = redraw_validation([pair.row for pair in found.pairs], share, seed)
        disjoint(rows)
        return replace(found, pairs=[replace(pair, row=row) for pair, row in zip(found.pairs, rows, strict=True)])

    def fault(self, found: Found) -> str | None:
        """Describe the first wrong number of a complete data set; None if there is none or it is incomplete."""
        if not found.whole or found.missing:
            return None
        by_split = counts(found.pairs)
        wanted = [(f"pairs of the split {name}", by_split.get(name, 0), self.published[name]) for name in self.exact]
        wanted += [(f"images after '{name}'", found.steps[name], number) for name, number in self.after.items()]
        return next((f"{is_:,} {what} instead of {must:,}" for what, is_, must in wanted if is_ != must), None)


def counts(pairs: list[Pair]) -> dict[str, int]:
    """Count the pairs of each split."""
    number: dict[str, int] = {}
    for pair in pairs:
        number[pair.row.split] = number.get(pair.row.split, 0) + 1
    return number


def read_table(places: Places, progress: Progress) -> Found:
    """Find the pairs in a table that :func:`llava_rad.reports.pairs.read_pairs` reads."""
    root = places.root
    file = next((root / name for name in TABLES if there(root / name)), None) if root.is_dir() else root
    file = places.reports or file
    if file is None:
        raise LlavaRadError(
            f"there is no {' or '.join(TABLES)} in the folder",
            hint="name the table itself, or with --reports beside the folder of its images",
        )
    dated = read_dated(file, places.columns, places.say, home=root if root.is_dir() else None)
    table = [pair for pair, _ in dated]
    known = [pair for pair in table if places.unknown_views or not pair.odd_view]
    front = [pair for pair in known if frontal(pair)]
    images = [Image(pair.row, moment(*texts) if texts[0] else None) for pair, texts in dated]
    undated = [image.row.number for image, (_, texts) in zip(images, dated, strict=True) if texts[0] and not image.when]
    if undated:
        places.say(
            f"warning: no date is read in {len(undated):,} rows: {listed(undated)}; their studies neither have a prior "
            "nor are one (dates are 20191231, 2019-12-31 or 31.12.2019)"
        )
    present = in_threads(lambda image: there(image.row.path), images, progress("images", len(images)))
    images = [image for image, is_there in zip(images, present, strict=True) if is_there]
    found = {image.row.path for image in images}
    pairs = [pair for pair in front if pair.row.path in found]
    steps = {
        "in the table": len(table),
        "view known or not stated": len(known),
        "not lateral, oblique or special": len(front),
        "image file there": len(pairs),
    }
    joined = join([_context_there(pair) for pair in pairs], images, _texts(table))
    for note in joined.notes:
        places.say(note)
    return Found(joined.pairs, steps, len(front) - len(pairs), "the table", (file,))


def _texts(pairs: Iterable[Pair]) -> dict[Key, Sections]:
    """Return the texts of the studies of a table, each by its first frontal image."""
    found: dict[Key, Sections] = {}
    for pair in pairs:
        key, own = key_of(pair.row), pair.context
        if key is not None and frontal(pair):
            texts = Sections(pair.findings, own.impression, own.indication, own.technique, own.comparison)
            found.setdefault(key, texts)
    return found


def _context_there(pair: Pair) -> Pair:
    """Return a pair without the laterals and priors whose file does not exist."""
    gone: dict[str, Any] = {
        name: None for name in CONTEXT_IMAGES if (path := getattr(pair.context, name)) and not there(path)
    }
    if "prior" in gone:
        gone |= {"prior_report": "", "days": None}
    return replace(pair, context=replace(pair.context, **gone)) if gone else pair


_MIMIC = {"train": 146_909, "val": 7_250, "test": 2_461}
_SHARE = _MIMIC["val"] / (_MIMIC["train"] + _MIMIC["val"])
DATASETS: dict[str, PairSet] = {
    one.name: one
    for one in (
        PairSet("mimic-cxr", "MIMIC-CXR (DICOM)", "mimic_cxr:read_dicom", _MIMIC, ("test",), val_share=_SHARE),
        PairSet("mimic-cxr-jpg", "MIMIC-CXR-JPG", "mimic_cxr:read_jpeg", _MIMIC, ("test",), val_share=_SHARE),
        PairSet(
            "iu-xray",
            "IU-Xray (Kaggle, Open-i)",
            "iu_xray:read",
            {"test": 3_306},
            ("test",),
            {WITH_FINDINGS: 3_307},
        ),
        PairSet("rexrank", "ReXrank's files by study", "public_tables:read_rexrank"),
        PairSet("rexgradient", "ReXGradient-160K's metadata", "public_tables:read_rexgradient"),
        PairSet("chexpert-plus", "CheXpert Plus", "public_tables:read_chexpert_plus"),
        PairSet("table", "any CSV or JSONL file of images and texts", "registry:read_table"),
    )
}


def places(root: Path, reports: Path | None = None, tables: Path | None = None) -> Places:
    """Make locations absolute and remove ``..``; symbolic links stay: data sets are often reached through them."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else Path(os.path.normpath(path.absolute()))

    return Places(absolute(root) or root, absolute(reports), absolute(tables))
