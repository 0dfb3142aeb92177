"""Published tables of reports as data sets: ReXrank's test files, ReXGradient, CheXpert Plus; one image of each study.

Tables are recognised by their form (:mod:`encoder.datasets.forms`) and read as any table of pairs. Leaderboards count
studies, so that of a study's frontal images one remains: PA before AP, then the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from encoder.datasets.forms import FORMS, form_of
from encoder.datasets.tables import read_records
from encoder.errors import LlavaRadError
from llava_rad.reports.pairs import Pair, frontal, read_dated
from llava_rad.reports.registry import Found, Places, Progress, read_table

_PREFERRED: Final = {"PA": 0, "AP": 1}


@dataclass(frozen=True)
class PublishedTable:
    """A published table that is a data set.

    Attributes:
        form: its name in :data:`encoder.datasets.forms.FORMS`.
        file: name of the file, for messages.
    """

    form: str
    file: str


TABLES: Final[Mapping[str, PublishedTable]] = {
    "rexrank": PublishedTable("ReXrank", "ReXRank_IUXray_test.json"),
    "rexgradient": PublishedTable("ReXGradient", "test_metadata.json"),
    "chexpert-plus": PublishedTable("CheXpert Plus", "df_chexpert_plus_240401.csv"),
}
"""Data sets that are one table, with images beside it or elsewhere."""


def read_rexrank(places: Places, progress: Progress) -> Found:
    """Find the studies of a file of ReXrank."""
    return _read("rexrank", places, progress)


def read_rexgradient(places: Places, progress: Progress) -> Found:
    """Find the studies of ReXGradient's metadata."""
    return _read("rexgradient", places, progress)


def read_chexpert_plus(places: Places, progress: Progress) -> Found:
    """Find the studies of CheXpert Plus' table."""
    return _read("chexpert-plus", places, progress)


def pairs_without_images(name: str, file: Path) -> list[Pair]:
    """Read the studies of a published table whose images are not at hand, for reports that others wrote.

    Raises:
        LlavaRadError: if it is no such table.
    """
    check_form(name, file)
    return by_study(pair for pair, _ in read_dated(file) if not pair.odd_view and frontal(pair))


def check_form(name: str, file: Path) -> None:
    """Check that a file is the published table.

    Raises:
        LlavaRadError: if it is not.
    """
    table = TABLES[name]
    first = next(iter(read_records(file, of="the table")), {})
    if form_of(first) is not FORMS[table.form]:
        raise LlavaRadError(
            f"the file is no table of {table.form}", hint=f"expected: {table.file} as published, or one of its form"
        )


def by_study(pairs: Iterable[Pair]) -> list[Pair]:
    """Keep one pair of each study, in the order of the table; a pair without a study is one."""
    kept: dict[tuple[str, ...], Pair] = {}
    for pair in pairs:
        key = (pair.row.subject, pair.row.study) if pair.row.study else ("", "", pair.id)
        before = kept.get(key)
        if before is None or _rank(pair) < _rank(before):
            kept[key] = pair
    return list(kept.values())


def _rank(pair: Pair) -> int:
    return _PREFERRED.get(pair.row.view, len(_PREFERRED))


def _read(name: str, places: Places, progress: Progress) -> Found:
    root = places.root
    file = places.reports or (root if root.is_file() else root / TABLES[name].file)
    if not file.is_file():
        raise LlavaRadError(
            f"there is no {TABLES[name].file} in the folder", hint="name the table with --reports, or in its place"
        )
    check_form(name, file)
    folder = root if root.is_dir() else root.parent
    found = read_table(replace(places, root=folder, reports=file), progress)
    pairs = by_study(found.pairs)
    return replace(found, pairs=pairs, steps=found.steps | {"one image of each study": len(pairs)})
