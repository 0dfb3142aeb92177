"""Validation splits drawn by subject."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from llava_rad.reports.pairs import Pair


def redraw_validation(pairs: Sequence[Pair], share: float, seed: int) -> list[Pair]:
    """Draw the validation split anew from the training and validation splits; every other pair stays as it is.

    Subjects come in an order that depends on the seed and on nothing but their own id, and are taken whole until
    validation is as near to its share as whole subjects allow. A pair without subject counts as a subject of its own.

    Args:
        pairs: those of the splits ``train`` and ``val`` are drawn from.
        share: of the validation pairs among these, above 0 and below 1.
        seed: of the order.
    """
    units: dict[tuple[str, str, str], list[int]] = {}
    for number, pair in enumerate(pairs):
        row = pair.row
        if row.split in ("train", "val"):
            units.setdefault((row.dataset, row.subject, "" if row.subject else pair.id), []).append(number)
    wanted = round(share * sum(map(len, units.values())))
    drawn: set[int] = set()
    for unit in sorted(units, key=lambda unit: _place(unit, seed)):
        over = len(drawn) + len(units[unit]) - wanted
        if over > 0 and over >= wanted - len(drawn):
            break
        drawn.update(units[unit])
    return [
        _with_split(pair, "val" if number in drawn else "train") if pair.row.split in ("train", "val") else pair
        for number, pair in enumerate(pairs)
    ]


def _place(unit: tuple[str, ...], seed: int) -> bytes:
    text = "\0".join((str(seed), *unit))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _with_split(pair: Pair, split: str) -> Pair:
    return pair if pair.row.split == split else Pair(dataclasses.replace(pair.row, split=split), pair.findings)
