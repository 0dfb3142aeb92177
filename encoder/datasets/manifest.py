"""Manifests: the table format for images that every training and evaluation reads.

A manifest is a CSV file (UTF-8). Its first line ``# llava-rad.manifest/1 root=FOLDER`` names the folder that the column
``path`` is relative to, itself relative to the manifest's folder; without such a line that is the manifest's folder.
The other columns are the fields of :class:`Row`, of which ``inverted`` (1 or empty) is written if a row is, and one
column ``label:NAME`` for each label, ``mask:NAME`` for each structure (a path like ``path``) and ``attribute:NAME`` for
each property of the patient. Only ``path`` is needed.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, TypedDict, cast

from encoder.datasets.tables import LONGEST_LINE, csv_cells, lines
from encoder.datasets.values import LABEL_VALUES, SPLITS
from encoder.errors import LlavaRadError
from encoder.files import reported, writing
from encoder.reader.views import VIEWS, View

_HEADER = "# llava-rad.manifest/1 root="
_COLUMNS = ("path", "dataset", "subject", "study", "image", "view", "split")
_INVERTED = "inverted"  # of no manifest of version 0.2.0, and only of those that need it since
_YES = {"": False, "0": False, "1": True}
_LABEL, _MASK, _ATTRIBUTE = "label:", "mask:", "attribute:"
_LABEL_TEXTS = {value: text for text, value in LABEL_VALUES.items()}
_NO_MASKS: Mapping[str, Path] = {}  # shared by all rows without any: a million empty mappings are 64 MB
_NO_ATTRIBUTES: Mapping[str, str] = {}


class Reading(TypedDict):
    """Arguments of :class:`encoder.reader.sandbox.Reader` that a manifest states."""

    inverted: bool
    aspect: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """One image.

    Attributes:
        path: absolute path of the file.
        dataset: name, e.g. ``"padchest"``; subjects and images are unique within one data set only.
        subject: id of the patient; "" if unknown.
        study: id of the study; "" if unknown.
        image: id of the image within its data set.
        view: projection.
        split: ``"train"``, ``"val"``, ``"test"``, or "" if the data set makes no splits.
        labels: 1 present, 0 absent, -1 uncertain, None unknown. Rows share equal mappings.
        number: row of its manifest, from 1; messages use it, since file names may identify a patient.
        masks: structure -> picture file of the image's pixel size or aspect ratio, non-zero inside; see
            :mod:`encoder.datasets.masks`.
        attributes: of the patient at the time of the image, as text: sex ("F", "M"), age (years), weight (kg), bmi,
            ethnicity; and ``aspect``, see there.
        inverted: the file holds low values where the image is bright, and does not say so itself; readers invert it.
    """

    path: Path
    dataset: str = ""
    subject: str = ""
    study: str = ""
    image: str = ""
    view: View = "unknown"
    split: str = ""
    labels: Mapping[str, float | None] = field(default_factory=dict, hash=False)
    number: int = field(default=0, compare=False)
    masks: Mapping[str, Path] = field(default_factory=lambda: _NO_MASKS, hash=False)
    attributes: Mapping[str, str] = field(default_factory=lambda: _NO_ATTRIBUTES, hash=False)
    inverted: bool = False

    @property
    def aspect(self) -> float | None:
        """Width of the radiograph divided by its height, where the data set states it (attribute ``aspect``).

        Readers stretch files that were squashed to another ratio; None leaves them as they are.

        Raises:
            LlavaRadError: if it is no number between 0.25 and 4.
        """
        text = self.attributes.get("aspect")
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0.25 <= value <= 4:
            raise LlavaRadError(f"row {self.number} of the manifest: aspect is no number between 0.25 and 4")
        return value

    @property
    def reading(self) -> Reading:
        """Keyword arguments of the reader for this file: inversion and aspect."""
        return {"inverted": self.inverted, "aspect": self.aspect}

    @property
    def changes(self) -> str:
        """Say how readers change the pixels of the file by what the manifest states; "" if they do not."""
        words = ["inverted"] * self.inverted + ([] if self.aspect is None else [f"aspect {self.aspect:g}"])
        return " ".join(words)

    def content(self, digest: str) -> str:
        """Return what identifies the pixels that are read: the SHA-256 of the file, changed as they are."""
        changes = self.changes
        return hashlib.sha256(f"{changes} {digest}".encode()).hexdigest() if changes and digest else digest


class Count(NamedTuple):
    """Number of images, and of known subjects among them."""

    images: int
    subjects: int


def read_manifest(file: Path) -> list[Row]:
    """Read a manifest.

    Raises:
        LlavaRadError: if there is no such file, or it is not a manifest; the message names the row.
    """
    if not file.exists():
        raise LlavaRadError("the manifest does not exist", hint="llava-rad manifest writes one")
    text = lines(file, of="the manifest", longest=LONGEST_LINE)
    first = next(text, "")
    if first.startswith("#") and not first.startswith(_HEADER):
        raise LlavaRadError("the manifest is of an unknown format: its first line is not that of version 1")
    if not first.startswith(_HEADER):
        text, first = itertools.chain([first], text), _HEADER
    root = _absolute(file.parent / first.removeprefix(_HEADER).rstrip("\r\n"))
    rows = list(_rows(csv_cells(text, of="the manifest"), root))
    check_unique(rows, of="the manifest")
    return rows


def check_unique(rows: Iterable[Row], *, of: str) -> None:
    """Check that no file, and no image of a data set, is in two rows.

    Raises:
        LlavaRadError: if one is; the message names the first of these rows.
    """
    files: dict[str, int] = {}
    images: dict[tuple[str, str], int] = {}
    for row in rows:
        first = files.setdefault(str(row.path), row.number)
        if first == row.number and row.image:
            first = images.setdefault((row.dataset, row.image), row.number)
        if first != row.number:
            raise LlavaRadError(f"{of}: rows {first} and {row.number} are the same image")


def write_manifest(rows: Iterable[Row], file: Path, *, root: Path | None = None) -> None:
    """Write a manifest atomically.

    Args:
        rows: in the order of the file.
        file: replaced if it exists.
        root: folder that paths are relative to; default: the manifest's own. It is stored relative to the manifest's
            folder if it is inside that, so that both can be moved together, else as an absolute path.

    Raises:
        LlavaRadError: if the file cannot be written.
    """
    rows = list(rows)
    home = _absolute(file.parent)
    top = home if root is None else _absolute(root)
    stored = top.relative_to(home).as_posix() if top.is_relative_to(home) else str(top)
    labels, masks = _names(row.labels for row in rows), _names(row.masks for row in rows)
    attributes = _names(row.attributes for row in rows)
    polarity = [_INVERTED] if any(row.inverted for row in rows) else []
    inside = f"{top}{os.sep}"
    with reported("the manifest"), writing(file, "w") as stream:
        stream.write(f"{_HEADER}{stored}\n")
        writer = csv.writer(stream, lineterminator="\n")
        kinds = ((_LABEL, labels), (_MASK, masks), (_ATTRIBUTE, attributes))
        writer.writerow([*_COLUMNS, *polarity, *(kind + name for kind, names in kinds for name in names)])
        for row in rows:
            path = str(row.path).removeprefix(inside).replace(os.sep, "/")
            cells = [path, row.dataset, row.subject, row.study, row.image, row.view, row.split]
            cells += ["1" if row.inverted else "" for _ in polarity]
            cells += [_LABEL_TEXTS[row.labels.get(name)] for name in labels]
            cells += [_mask_cell(row.masks.get(name), top, home) for name in masks]
            writer.writerow(cells + [row.attributes.get(name, "") for name in attributes])


def counts(rows: Iterable[Row]) -> dict[str, dict[str, Count]]:
    """Count images and subjects of each data set, for all views (``"all"``) and for each view that occurs."""
    images: dict[str, Counter[str]] = {}
    subjects: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        for view in ("all", row.view):
            images.setdefault(row.dataset, Counter())[view] += 1
            known = subjects.setdefault((row.dataset, view), set())
            if row.subject:
                known.add(row.subject)
    return {
        dataset: {view: Count(by_view[view], len(subjects[dataset, view])) for view in ("all", *VIEWS) if by_view[view]}
        for dataset, by_view in images.items()
    }


def _rows(table: Iterator[list[str]], root: Path) -> Iterator[Row]:
    header, top = next(table, []), os.path.join(root, "")  # noqa: PTH118 (a million strings)
    _check_columns(header)
    column = {name: position for position, name in enumerate(header)}
    positions = [column.get(name) for name in (*_COLUMNS, _INVERTED)]
    label_positions, mask_positions, attribute_positions = (
        [(name.removeprefix(kind), position) for name, position in column.items() if name.startswith(kind)]
        for kind in (_LABEL, _MASK, _ATTRIBUTE)
    )
    shared: dict[tuple[str, ...], Mapping[str, float | None]] = {}  # a million rows have few different label sets
    people: dict[tuple[str, ...], Mapping[str, str]] = {}
    for number, cells in enumerate(table, 1):
        if len(cells) != len(header):
            raise LlavaRadError(f"row {number} of the manifest has {len(cells)} cells, its header {len(header)}")
        path, dataset, subject, study, image, view, split, inverted = ("" if p is None else cells[p] for p in positions)
        if not path:
            raise LlavaRadError(f"row {number} of the manifest has no usable path")
        if (view or "unknown") not in VIEWS:
            raise LlavaRadError(f"row {number} of the manifest: the view is none of {', '.join(VIEWS)}")
        if split not in SPLITS:
            raise LlavaRadError(f"row {number} of the manifest: the split is none of train, val, test or empty")
        if inverted not in _YES:
            raise LlavaRadError(f"row {number} of the manifest: inverted is none of 1, 0 or empty")
        values = tuple(cells[position] for _, position in label_positions)
        labels = shared.get(values)
        if labels is None:
            if not set(values) <= LABEL_VALUES.keys():
                raise LlavaRadError(f"row {number} of the manifest: a label is none of 1, 0, -1 or empty")
            cell = zip(label_positions, values, strict=True)
            labels = shared[values] = {name: LABEL_VALUES[value] for (name, _), value in cell}
        masks = {name: _file(cells[position], top) for name, position in mask_positions if cells[position]} or _NO_MASKS
        facts = tuple(cells[position] for _, position in attribute_positions)
        if facts not in people:
            pairs = zip(attribute_positions, facts, strict=True)
            people[facts] = {name: value for (name, _), value in pairs if value} or _NO_ATTRIBUTES
        yield Row(
            _file(path, top), dataset, subject, study, image, cast(View, view or "unknown"), split, labels, number,
            masks, people[facts], _YES[inverted],
        )  # fmt: skip


def _file(path: str, top: str) -> Path:
    return Path(os.path.normpath(f"{top}{path}" if path[0] != "/" else path))


def _mask_cell(path: Path | None, top: Path, home: Path) -> str:
    """Write a path relative to the root if it is inside, or if both are inside the manifest's folder; else absolute."""
    if path is None:
        return ""
    if path.is_relative_to(top) or (path.is_relative_to(home) and top.is_relative_to(home)):
        return Path(os.path.relpath(path, top)).as_posix()
    return str(path)


def _names(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    """Collect the sorted keys of all mappings; rows share mappings, so each is read once."""
    return sorted({name for mapping in {id(one): one for one in mappings}.values() for name in mapping})


def _check_columns(header: Sequence[str]) -> None:
    if "path" not in header:
        raise LlavaRadError("the manifest has no column 'path'", hint="llava-rad manifest writes manifests")
    kinds = f"{_LABEL}NAME, {_MASK}NAME and {_ATTRIBUTE}NAME"
    for name in header:
        if name not in (*_COLUMNS, _INVERTED) and not name.startswith((_LABEL, _MASK, _ATTRIBUTE)):
            near = get_close_matches(name, (*_COLUMNS, _INVERTED), 1)
            what = f"; did you mean '{near[0]}'?" if near else f"; columns are {', '.join(_COLUMNS)}, {kinds}"
            raise LlavaRadError(f"the manifest has an unknown column{what}")
    if len(set(header)) != len(header):
        raise LlavaRadError("the manifest has a column twice")


def _absolute(path: Path) -> Path:
    """Make a path absolute and remove ``..``; symbolic links stay, since data sets are often reached through them."""
    return Path(os.path.normpath(path.absolute()))
