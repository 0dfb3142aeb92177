"""Splits by subject, redrawn validation splits, and selections of images to train on."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from encoder.datasets.manifest import Row
from encoder.errors import LlavaRadError
from encoder.files import sha256_of
from encoder.reader.views import FRONTAL

Shares = tuple[float, float, float]
"""Of the subjects in train, validation and test."""
CLASSIFICATION: Shares = (0.6, 0.2, 0.2)  # table 1b of the paper
SEGMENTATION: Shares = (0.7, 0.15, 0.15)  # E.3.2
LATERAL: Shares = (0.8, 0.1, 0.1)  # C.3
_NAMES = ("train", "val", "test")
_LISTED = 10


def split_by_subject(rows: Sequence[Row], shares: Shares, seed: int = 0) -> list[Row]:
    """Split rows by subject and keep their order; a row without a subject counts as a subject of its own.

    Subjects are ordered by a hash of their name and the seed, so neither the order of the rows nor a label matters.

    Args:
        rows: of one or several data sets; each is split separately.
        shares: of the subjects, together 1.
        seed: another one gives another split.

    Raises:
        LlavaRadError: if the shares are not between 0 and 1 or do not add up to 1.
    """
    if not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise LlavaRadError("the shares of train, validation and test are numbers that add up to 1")
    by_dataset: dict[str, dict[tuple[str, str], None]] = {}
    for row in rows:
        by_dataset.setdefault(row.dataset, {})[_unit(row)] = None
    split: dict[tuple[str, str, str], str] = {}
    for dataset, units in by_dataset.items():
        order = sorted(units, key=lambda unit: drawn("split", str(seed), dataset, *unit))
        train = round(shares[0] * len(order))
        val = train + round(shares[1] * len(order))
        for index, unit in enumerate(order):
            split[dataset, *unit] = _NAMES[(index >= train) + (index >= val)]
    done = [replace(row, split=split[row.dataset, *_unit(row)]) for row in rows]
    disjoint(done)
    return done


def shares_of(text: str) -> Shares:
    """Parse shares such as ``"70/15/15"``.

    Raises:
        LlavaRadError: if the text has another form, or does not add up to 100.
    """
    numbers = re.fullmatch(r"(\d{1,3})/(\d{1,3})/(\d{1,3})", text.strip())
    if numbers is None or sum(map(int, numbers.groups())) != 100:
        raise LlavaRadError("a split is three percentages that add up to 100", hint="for example 70/15/15")
    train, val, test = (int(number) / 100 for number in numbers.groups())
    return train, val, test


def redraw_validation(rows: Sequence[Row], share: float, seed: int) -> list[Row]:
    """Redraw the validation split from the rows of training and validation; other rows stay as they are.

    The order of subjects depends on the seed and on their ids alone. Whole subjects are taken until validation is as
    near to its share as they allow. A row without a subject counts as a subject of its own.

    Args:
        rows: of all splits; those of ``train`` and ``val`` are redrawn.
        share: of the validation images among these, above 0 and below 1.
        seed: of the order.
    """
    units: dict[tuple[str, str, str], list[int]] = {}
    for number, row in enumerate(rows):
        if row.split in ("train", "val"):
            name = "" if row.subject else row.image or str(row.path)
            units.setdefault((row.dataset, row.subject, name), []).append(number)
    wanted = round(share * sum(map(len, units.values())))
    val: set[int] = set()
    for unit in sorted(units, key=lambda unit: drawn(str(seed), *unit)):
        over = len(val) + len(units[unit]) - wanted
        if over > 0 and over >= wanted - len(val):
            break
        val.update(units[unit])
    return [
        replace(row, split="val" if number in val else "train") if row.split in ("train", "val") else row
        for number, row in enumerate(rows)
    ]


def counted(rows: Sequence[Row]) -> str:
    """Say how many images of how many patients rows are, in all and by split."""

    def count(some: Sequence[Row], images: str = "", patients: str = "") -> str:
        subjects = {(row.dataset, row.subject) for row in some if row.subject}
        return f"{len(some):,}{images} of {len(subjects):,}{patients}"

    splits = [(name, [row for row in rows if row.split == name]) for name in (*_NAMES, "")]
    parts = ", ".join(f"{name or 'no split'} {count(some)}" for name, some in splits if some)
    return count(rows, " images", " patients") + (f" ({parts})" if any(row.split for row in rows) else "")


def disjoint(rows: Iterable[Row]) -> None:
    """Check that no subject is in two splits.

    Raises:
        LlavaRadError: if a subject is; the message names two rows of the first of them.
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
            f"subjects in more than one split: {len(shared)}; the first of them in rows {one} and {other}",
            hint="results on patients seen in training are not valid: split by subject",
        )


def disjoint_contents(rows: Iterable[Row], digests: Iterable[str]) -> None:
    """Check that no picture is in two splits under two names.

    Args:
        rows: N images.
        digests: hash of each image file; "" if it cannot be read.

    Raises:
        LlavaRadError: if files of two splits have equal hashes; the message lists the first of them.
    """
    first: dict[str, Row] = {}
    shared: list[tuple[Row, Row]] = []
    for row, digest in zip(rows, digests, strict=True):
        if row.split and digest and first.setdefault(digest, row).split != row.split:
            shared.append((first[digest], row))
    if shared:
        listed = ", ".join(f"{a.number} ({a.split}) and {b.number} ({b.split})" for a, b in shared[:_LISTED])
        more = f" and {len(shared) - _LISTED} more" if len(shared) > _LISTED else ""
        raise LlavaRadError(
            f"images with the same bytes in two splits: {len(shared)}; rows {listed}{more}",
            hint="results on images seen in training are not valid: leave one of each out",
        )


def disjoint_files(rows: Sequence[Row]) -> None:
    """Check the files of rows as :func:`disjoint_contents`; only those of equal size and beginning are read whole."""
    keys: list[Callable[[Path], object]] = [lambda path: path.stat().st_size, _beginning, sha256_of]
    left = [(row, "") for row in rows if row.split]
    for key in keys:
        found = [(row, f"{before}/{value}") for row, before in left if (value := _tried(key, row.path)) is not None]
        splits: dict[str, set[str]] = {}
        for row, value in found:
            splits.setdefault(value, set()).add(row.split)
        left = [(row, value) for row, value in found if len(splits[value]) > 1]
    disjoint_contents([row for row, _ in left], [value for _, value in left])


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(1 << 16)).digest()


def _tried(key: Callable[[Path], object], path: Path) -> object:
    try:
        return key(path)
    except OSError:
        return None


@dataclass(frozen=True)
class Selection:
    """Rows to train on.

    Attributes:
        rows: in their order.
        left_out: data set -> reason -> number of dropped rows, each counted once.
    """

    rows: list[Row]
    left_out: dict[str, dict[str, int]]

    @property
    def dropped(self) -> dict[str, int]:
        """Number of dropped rows by reason, of all data sets together."""
        total: Counter[str] = Counter()
        for reasons in self.left_out.values():
            total.update(reasons)
        return dict(total)

    def with_others(self, others: Iterable[Selection]) -> Selection:
        """The same rows, with what selections before this one dropped."""
        counted: dict[str, Counter[str]] = {}
        for selection in (*others, self):
            for dataset, reasons in selection.left_out.items():
                counted.setdefault(dataset, Counter()).update(reasons)
        return Selection(self.rows, {dataset: dict(reasons) for dataset, reasons in counted.items()})


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
        rows: of one or several manifests; a file listed twice is taken once.
        views: ``"frontal"`` (PA and AP too), ``"lateral"``; None keeps all, unknown ones included.
        splits: None keeps all.
        exclude: rows of the evaluation sets. Their subjects are dropped with all images of the same data set; their
            images are dropped by name within the data set and by path, even if the subject is unknown.
        subset: number of images if above 1, else their share (1.0 keeps all). Subjects are drawn whole, except the
            last one if the number requires it. Smaller subsets are contained in larger ones of the same seed, and
            images added later do not change the order of the others.
        seed: of the subset.

    Raises:
        LlavaRadError: if the subset is larger than the selection, or not a whole number.
    """
    wanted = None if views is None else {view for name in views for view in (FRONTAL if name == "frontal" else (name,))}
    subjects = {(row.dataset, row.subject) for row in exclude if row.subject}
    images = {(row.dataset, row.image) for row in exclude if row.image}
    paths = {row.path for row in exclude}
    kept: list[Row] = []
    seen: set[Path] = set()
    dropped: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row.path in seen:
            dropped[row.dataset, "duplicate"] += 1
        elif wanted is not None and row.view not in wanted:
            dropped[row.dataset, "view"] += 1
        elif splits is not None and row.split not in splits:
            dropped[row.dataset, "split"] += 1
        elif row.subject and (row.dataset, row.subject) in subjects:
            dropped[row.dataset, "excluded subject"] += 1
        elif (row.image and (row.dataset, row.image) in images) or row.path in paths:
            dropped[row.dataset, "excluded image"] += 1
        else:
            kept.append(row)
        seen.add(row.path)
    if subset is not None:
        number = _subset_size(subset, len(kept))
        order = sorted(range(len(kept)), key=lambda i: _place(kept[i], seed))
        dropped.update((kept[i].dataset, "subset") for i in order[number:])
        kept = [kept[i] for i in sorted(order[:number])]
    left_out: dict[str, dict[str, int]] = {}
    for (dataset, reason), number in dropped.items():
        left_out.setdefault(dataset, {})[reason] = number
    return Selection(kept, left_out)


def drawn(*parts: str) -> bytes:
    """Hash words such as seed, data set and name into a sort key: the place in a random order."""
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _unit(row: Row) -> tuple[str, str]:
    return ("subject", row.subject) if row.subject else ("image", row.image or str(row.path))


def _place(row: Row, seed: int) -> tuple[bytes, str, str]:
    """Sort key of the order that subsets are cut from: the subject's hash, then the image."""
    return drawn(str(seed), row.dataset, *_unit(row)), row.image, str(row.path)


def _subset_size(subset: float, available: int) -> int:
    if subset <= 1:
        return max(1, round(subset * available)) if available else 0
    if subset != int(subset):
        raise LlavaRadError("a subset is a whole number of images, or a share of at most 1.0")
    if subset > available:
        raise LlavaRadError(f"a subset of {int(subset)} images is wanted, but there are {available}")
    return int(subset)
