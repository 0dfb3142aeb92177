"""What the readers share: counts of each filter step, and the validation split drawn by subject."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from llava_rad.reports.pairs import Pair

# "AP and lateral view of the chest.", "PA and lateral chest x-XXXX, 2 images"
_VIEW_WORDS = re.compile(
    r"(?:xray|x-ray|x-xxxx|radiographs?|radiography|films?|images?|views?|chest|thorax|frontal|lateral|pa|ap|portable|"
    r"upright|supine|erect|semi-erect|single|one|two|three|\d+|and|of|the|a|are|is|obtained|examination|exam)"
)


@dataclass
class Read:
    """Pairs of a data set, and how they came about.

    Attributes:
        pairs: in the data set's order.
        steps: what was left after each filter, in order: name and number of images.
        missing: images of the tables whose file is not there.
        complete: whether this is the whole public data set, so that its published counts must come out.
    """

    pairs: list[Pair] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    complete: bool = False


def only_names_views(text: str) -> bool:
    """Whether a text says what was examined and nothing of what was seen (one report of IU-Xray is like that)."""
    words = re.findall(r"[\w-]+", text.lower())
    return bool(words) and all(_VIEW_WORDS.fullmatch(word) for word in words)


def redraw_validation(pairs: Sequence[Pair], share: float, seed: int) -> list[Pair]:
    """Draw the split ``val`` anew, whole subjects at a time, from ``train`` and ``val``; others stay as they are.

    Subjects come in an order of their hashes, so that it does not depend on the order of the pairs; as many are taken
    as bring ``val`` to its share, or past it by a part of one subject.

    Args:
        pairs: with subjects; a pair without one is a subject of its own.
        share: of the pairs in ``train`` and ``val`` together.
        seed: of the order.
    """

    def key(pair: Pair) -> tuple[str, str]:
        return (pair.row.dataset, pair.row.subject or f"image {pair.id}")

    sizes: dict[tuple[str, str], int] = {}
    for pair in pairs:
        if pair.row.split in ("train", "val"):
            sizes[key(pair)] = sizes.get(key(pair), 0) + 1
    wanted = share * sum(sizes.values())
    drawn: set[tuple[str, str]] = set()
    taken = 0
    for subject in sorted(sizes, key=lambda subject: _place(seed, subject)):
        if taken + sizes[subject] / 2 > wanted:
            break
        drawn.add(subject)
        taken += sizes[subject]
    return [
        pair
        if pair.row.split not in ("train", "val")
        else replace(pair, row=replace(pair.row, split="val" if key(pair) in drawn else "train"))
        for pair in pairs
    ]


def of_split(pairs: Iterable[Pair], split: str) -> list[Pair]:
    """The pairs of one split."""
    return [pair for pair in pairs if pair.row.split == split]


def _place(seed: int, subject: tuple[str, str]) -> bytes:
    text = "\0".join((str(seed), *subject))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()
