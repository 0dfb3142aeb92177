"""The one table format for images, between public data sets and everything that trains or evaluates on them.

A manifest is a CSV file (UTF-8). Its first line ``# llava-rad.manifest/1 root=FOLDER`` names the folder that the column
``path`` is relative to, itself relative to the manifest's folder; without such a line that is the manifest's folder.
The other columns are the fields of :class:`Row` and one column ``label:NAME`` for each label, ``mask:NAME`` for each
structure (a path like ``path``) and ``attribute:NAME`` for each property of the patient. Only ``path`` is needed.
"""

from __future__ import annotations

import csv
import hashlib
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple, TextIO, cast, get_args

from encoder.errors import LlavaRadError

View = Literal["PA", "AP", "frontal", "lateral", "unknown"]
VIEWS: tuple[View, ...] = get_args(View)
FRONTAL: frozenset[str] = frozenset({"PA", "AP", "frontal"})
SPLITS = ("train", "val", "test", "")

_HEADER = "# llava-rad.manifest/1 root="
_COLUMNS = ("path", "dataset", "subject", "study", "image", "view", "split")
_LABEL, _MASK, _ATTRIBUTE = "label:", "mask:", "attribute:"
_LABEL_VALUES: dict[str, float | None] = {"1": 1.0, "0": 0.0, "-1": -1.0, "": None}
_LABEL_TEXTS = {value: text for text, value in _LABEL_VALUES.items()}
_NO_MASKS: Mapping[str, Path] = {}  # shared by all rows without any: a million empty mappings are 64 MB
_NO_ATTRIBUTES: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Row:
    """One image.

    Attributes:
        path: of the file, absolute.
        dataset: e.g. ``"padchest"``; subjects and images are told apart within one data set only.
        subject: the patient; "" where unknown.
        study: "" where unknown.
        image: the image within its data set.
        view: projection.
        split: ``"train"``, ``"val"``, ``"test"`` or "" where the data set makes no splits.
        labels: 1 present, 0 absent, -1 uncertain, None unknown. Rows share equal mappings.
        number: row of its manifest, from 1: messages name images by it, since names may identify a patient.
        masks: structure -> picture file of the image's pixel size or aspect, non-zero inside; see
        ``encoder.datasets.masks``.
        attributes: of the patient at the time, as text: sex ("F", "M"), age (years), weight (kg), bmi, ethnicity.
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


@dataclass(frozen=True)
class Selection:
    """Rows to train on, in their order, and how many were left out for which reason (each counted once)."""

    rows: list[Row]
    dropped: dict[str, int]


class Count(NamedTuple):
    """Number of images, and of known subjects among them."""

    images: int
    subjects: int


def read_manifest(file: Path) -> list[Row]:
    """Read a manifest.

    Raises:
        LlavaRadError: there is no such file, or it is not a manifest; the message names the row.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            root = _root(stream, file.parent)
            return list(_rows(csv.reader(stream), root))
    except FileNotFoundError:
        raise LlavaRadError("the manifest does not exist", hint="llava-rad manifest writes one") from None
    except (OSError, UnicodeDecodeError, csv.Error):
        raise LlavaRadError("the manifest cannot be read as CSV in UTF-8") from None


def write_manifest(rows: Iterable[Row], file: Path, *, root: Path | None = None) -> None:
    """Write a manifest in one step: it is there whole or not at all.

    Args:
        rows: in the order in which they are to stand.
        file: replaced if it exists.
        root: folder that paths are written relative to; default: the manifest's own. It is stored relative to the
            manifest's folder if it lies inside that, so that both can be moved together, else as an absolute path.

    Raises:
        LlavaRadError: the disk refuses.
    """
    rows = list(rows)
    home = _absolute(file.parent)
    top = home if root is None else _absolute(root)
    stored = top.relative_to(home).as_posix() if top.is_relative_to(home) else str(top)
    labels, masks = _names(row.labels for row in rows), _names(row.masks for row in rows)
    attributes = _names(row.attributes for row in rows)
    temporary = file.with_name(f".llava-rad-{secrets.token_hex(8)}.tmp")
    try:
        try:
            with temporary.open("x", encoding="utf-8", newline="") as stream:
                stream.write(f"{_HEADER}{stored}\n")
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerow(
                    [*_COLUMNS, *(_LABEL + n for n in labels), *(_MASK + n for n in masks)]
                    + [_ATTRIBUTE + name for name in attributes]
                )
                inside = f"{top}{os.sep}"
                for row in rows:
                    path = str(row.path).removeprefix(inside).replace(os.sep, "/")
                    cells = [path, row.dataset, row.subject, row.study, row.image, row.view, row.split]
                    cells += [_LABEL_TEXTS[row.labels.get(name)] for name in labels]
                    cells += [_mask_cell(row.masks.get(name), top, home) for name in masks]
                    writer.writerow(cells + [row.attributes.get(name, "") for name in attributes])
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise LlavaRadError(f"the manifest cannot be written ({os.strerror(error.errno or 0)})") from None


def select(
    rows: Sequence[Row],
    *,
    views: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    exclude: Sequence[Row] = (),
    subset: float | None = None,
    seed: int = 0,
) -> Selection:
    """Choose the images to train on.

    Args:
        rows: of one or several manifests; a file that stands there twice is taken once.
        views: ``"frontal"`` (PA and AP too), ``"lateral"``; None keeps all, unknown ones included.
        splits: None keeps all.
        exclude: rows of the evaluation sets. Whoever is a subject there is left out with all images, within the same
            data set; an image there is left out by its name in the data set and by its path, subject known or not.
        subset: above 1 the number of images, else their share (1.0 keeps all). Subjects are drawn whole, except the
            last one where the number demands it. Smaller subsets with the same seed are contained in larger ones, and
            images added later leave the order of the others as it is.
        seed: of the subset.

    Raises:
        LlavaRadError: the subset is larger than what there is, or not a whole number.
    """
    wanted = None if views is None else {view for name in views for view in (FRONTAL if name == "frontal" else (name,))}
    subjects = {(row.dataset, row.subject) for row in exclude if row.subject}
    images = {(row.dataset, row.image) for row in exclude if row.image}
    paths = {row.path for row in exclude}
    kept: list[Row] = []
    seen: set[Path] = set()
    dropped: Counter[str] = Counter()
    for row in rows:
        if row.path in seen:
            dropped["duplicate"] += 1
        elif wanted is not None and row.view not in wanted:
            dropped["view"] += 1
        elif splits is not None and row.split not in splits:
            dropped["split"] += 1
        elif row.subject and (row.dataset, row.subject) in subjects:
            dropped["excluded subject"] += 1
        elif (row.image and (row.dataset, row.image) in images) or row.path in paths:
            dropped["excluded image"] += 1
        else:
            kept.append(row)
        seen.add(row.path)
    if subset is not None:
        number = _subset_size(subset, len(kept))
        order = sorted(range(len(kept)), key=lambda i: _place(kept[i], seed))
        dropped["subset"] = len(kept) - number
        kept = [kept[i] for i in sorted(order[:number])]
    return Selection(kept, {reason: number for reason, number in dropped.items() if number})


def counts(rows: Iterable[Row]) -> dict[str, dict[str, Count]]:
    """Images and subjects of each data set: under ``"all"``, and under each view that occurs."""
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


def disjoint(rows: Iterable[Row]) -> None:
    """Assert that no subject stands in two splits.

    Raises:
        LlavaRadError: some do; the message names two rows of the first of them.
    """
    first: dict[tuple[str, str], Row] = {}
    shared: dict[tuple[str, str], tuple[int, int]] = {}
    for row in rows:
        key = (row.dataset, row.subject)
        if row.subject and first.setdefault(key, row).split != row.split:
            shared.setdefault(key, (first[key].number, row.number))
    if shared:
        one, other = next(iter(shared.values()))
        raise LlavaRadError(
            f"subjects that stand in more than one split: {len(shared)}; the first of them in rows {one} and {other}",
            hint="evaluation on patients that were trained on is worth nothing: split by subject",
        )


def _root(stream: TextIO, home: Path) -> Path:
    """The folder of the paths, from the first line, which is then behind us."""
    line = stream.readline()
    if line.startswith("#") and not line.startswith(_HEADER):
        raise LlavaRadError("the manifest is of an unknown format: its first line is not that of version 1")
    if line.startswith(_HEADER):
        return _absolute(home / line.removeprefix(_HEADER).rstrip("\r\n"))
    stream.seek(0)
    return _absolute(home)


def _rows(table: Iterator[list[str]], root: Path) -> Iterator[Row]:
    header, top = next(table, []), os.path.join(root, "")  # noqa: PTH118 (a million strings)
    _check_columns(header)
    column = {name: position for position, name in enumerate(header)}
    places = [column.get(name) for name in _COLUMNS]
    label_places, mask_places, attribute_places = (
        [(name.removeprefix(kind), place) for name, place in column.items() if name.startswith(kind)]
        for kind in (_LABEL, _MASK, _ATTRIBUTE)
    )
    shared: dict[tuple[str, ...], Mapping[str, float | None]] = {}  # a million rows have few different label sets
    people: dict[tuple[str, ...], Mapping[str, str]] = {}
    for number, cells in enumerate(table, 1):
        if len(cells) != len(header):
            raise LlavaRadError(f"row {number} of the manifest has {len(cells)} cells, its header {len(header)}")
        path, dataset, subject, study, image, view, split = ("" if p is None else cells[p] for p in places)
        if not path or "\0" in path:
            raise LlavaRadError(f"row {number} of the manifest has no usable path")
        if (view or "unknown") not in VIEWS:
            raise LlavaRadError(f"row {number} of the manifest: the view is none of {', '.join(VIEWS)}")
        if split not in SPLITS:
            raise LlavaRadError(f"row {number} of the manifest: the split is none of train, val, test or empty")
        values = tuple(cells[place] for _, place in label_places)
        labels = shared.get(values)
        if labels is None:
            if not set(values) <= _LABEL_VALUES.keys():
                raise LlavaRadError(f"row {number} of the manifest: a label is none of 1, 0, -1 or empty")
            cell = zip(label_places, values, strict=True)
            labels = shared[values] = {name: _LABEL_VALUES[value] for (name, _), value in cell}
        masks = {name: _file(cells[place], top) for name, place in mask_places if cells[place]} or _NO_MASKS
        if any("\0" in cells[place] for _, place in mask_places):
            raise LlavaRadError(f"row {number} of the manifest has an unusable path of a mask")
        facts = tuple(cells[place] for _, place in attribute_places)
        if facts not in people:
            pairs = zip(attribute_places, facts, strict=True)
            people[facts] = {name: value for (name, _), value in pairs if value} or _NO_ATTRIBUTES
        yield Row(
            _file(path, top), dataset, subject, study, image, cast(View, view or "unknown"), split, labels, number,
            masks, people[facts],
        )  # fmt: skip


def _file(path: str, top: str) -> Path:
    return Path(os.path.normpath(f"{top}{path}" if path[0] != "/" else path))


def _mask_cell(path: Path | None, top: Path, home: Path) -> str:
    """Relative to the root if it lies there, or if root and mask both lie in the manifest's folder; else absolute."""
    if path is None:
        return ""
    if path.is_relative_to(top) or (path.is_relative_to(home) and top.is_relative_to(home)):
        return Path(os.path.relpath(path, top)).as_posix()
    return str(path)


def _names(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    """The keys of all mappings, in order; rows share mappings, so each is looked at once."""
    return sorted({name for mapping in {id(one): one for one in mappings}.values() for name in mapping})


def _check_columns(header: Sequence[str]) -> None:
    if "path" not in header:
        raise LlavaRadError("the manifest has no column 'path'", hint="llava-rad manifest writes manifests")
    kinds = f"{_LABEL}NAME, {_MASK}NAME and {_ATTRIBUTE}NAME"
    for name in header:
        if name not in _COLUMNS and not name.startswith((_LABEL, _MASK, _ATTRIBUTE)):
            near = get_close_matches(name, _COLUMNS, 1)
            what = f"; did you mean '{near[0]}'?" if near else f"; columns are {', '.join(_COLUMNS)}, {kinds}"
            raise LlavaRadError(f"the manifest has an unknown column{what}")
    if len(set(header)) != len(header):
        raise LlavaRadError("the manifest has a column twice")


def _subset_size(subset: float, available: int) -> int:
    if subset <= 1:
        return max(1, round(subset * available)) if available else 0
    if subset != int(subset):
        raise LlavaRadError("a subset is a whole number of images, or a share of at most 1.0")
    if subset > available:
        raise LlavaRadError(f"a subset of {int(subset)} images is wanted, but there are {available}")
    return int(subset)


def _place(row: Row, seed: int) -> tuple[bytes, str, str]:
    """Where an image stands in the fixed order that subsets are cut from: its subject's hash, then the image."""
    unit = ("subject", row.subject) if row.subject else ("image", row.image or str(row.path))
    text = "\0".join((str(seed), row.dataset, *unit))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest(), row.image, str(row.path)


def _absolute(path: Path) -> Path:
    """Absolute and without ``..``, but symbolic links stay: data sets are often reached through them."""
    return Path(os.path.normpath(path.absolute()))
