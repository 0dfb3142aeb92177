"""Train, validation and test by subject, for data sets that make no splits of their own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace

from encoder.datasets.manifest import Row, disjoint
from encoder.errors import LlavaRadError

Shares = tuple[float, float, float]
"""Of the subjects in train, validation and test."""
CLASSIFICATION: Shares = (0.6, 0.2, 0.2)  # table 1b of the paper
SEGMENTATION: Shares = (0.7, 0.15, 0.15)  # E.3.2
LATERAL: Shares = (0.8, 0.1, 0.1)  # C.3
_NAMES = ("train", "val", "test")


def split_by_subject(rows: Sequence[Row], shares: Shares, seed: int = 0) -> list[Row]:
    """The same rows in the same order, each subject in one split; a row without a subject is a subject of its own.

    Subjects are ordered by a hash of their name and the seed, so neither the order of the rows nor a label matters.

    Args:
        rows: of one or several data sets, each split for itself.
        shares: of the subjects, together 1.
        seed: another one gives another split.

    Raises:
        LlavaRadError: the shares are not shares.
    """
    if not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise LlavaRadError("the shares of train, validation and test are numbers that add up to 1")
    by_dataset: dict[str, dict[tuple[str, str], None]] = {}
    for row in rows:
        by_dataset.setdefault(row.dataset, {})[_unit(row)] = None
    split: dict[tuple[str, str, str], str] = {}
    for dataset, units in by_dataset.items():
        order = sorted(units, key=lambda unit: _place(dataset, unit, seed))
        train = round(shares[0] * len(order))
        val = train + round(shares[1] * len(order))
        for place, unit in enumerate(order):
            split[dataset, *unit] = _NAMES[(place >= train) + (place >= val)]
    done = [replace(row, split=split[row.dataset, *_unit(row)]) for row in rows]
    disjoint(done)
    return done


def shares_of(text: str) -> Shares:
    """``"70/15/15"`` as shares.

    Raises:
        LlavaRadError: it is of another form, or does not add up to 100.
    """
    numbers = re.fullmatch(r"(\d{1,3})/(\d{1,3})/(\d{1,3})", text.strip())
    if numbers is None or sum(map(int, numbers.groups())) != 100:
        raise LlavaRadError("a split is three percentages that add up to 100", hint="for example 70/15/15")
    train, val, test = (int(number) / 100 for number in numbers.groups())
    return train, val, test


def _unit(row: Row) -> tuple[str, str]:
    return ("subject", row.subject) if row.subject else ("image", row.image or str(row.path))


def _place(dataset: str, unit: tuple[str, str], seed: int) -> bytes:
    text = "\0".join(("split", str(seed), dataset, *unit))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()
