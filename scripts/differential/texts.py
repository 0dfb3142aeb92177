"""Drawn texts of reports, with what people and machines put into them."""

from __future__ import annotations

import random
from typing import Final

_WORDS: Final = [
    "the",
    "heart",
    "is",
    "normal",
    "in",
    "size",
    "lungs",
    "are",
    "clear",
    "no",
    "pleural",
    "effusion",
    "or",
    "pneumothorax",
    "mild",
    "stable",
    "left",
    "right",
    "lower",
    "lobe",
    "opacity",
    "may",
    "represent",
    "atelectasis",
    "pneumonia",
    "of",
    "and",
    "with",
    "a",
    "there",
    "has",
    "been",
    "interval",
    "increase",
    "since",
    "prior",
    "tube",
    "tip",
    "carina",
    "PICC",
    "line",
    "Findings:",
    "IMPRESSION:",
    "USER",
    "ASSISTANT",
    "edema",
    "consolidation",
]
_ODD: Final = (
    "1.5", "2,3", "3-4", "T-12", "mm.", "e.g.", "___", "...", "(AP)", "&amp;", "&lt;5", "&quot;", "<skipped>", "<s>",
    "</s>", "<unk>", "<image>", "<0x0A>", "-\n", "\n", "\n\n", "\t", "  ", "   ", "\r\n", "\u00a0", "\u2028", "\u200b",
    "\ufeff", "\x1c", "\x85", "é", "e\u0301", "Größe", "ß", "İ", "ſ", "Σς", "胸部", "心影", "😀", "👨‍⚕️", "\u2581", "½",
    "²", "٣",
    "“quoted”", "it's", "’s", "#", "$5", "50%", "a/b", "x=y", "\\", "{}", "[1]", "~", "`", "^", "@", "–", "—", "•", "ﬁ",
    "\u0001", "don't", "C3/4", ".", ",", ";", ":", "!", "?", "-", "--", "1.", "1)", "A.", "..", ". .", "0", "007",
)  # fmt: skip


def text(rng: random.Random, *, odd: float = 0.2, most: int = 30) -> str:
    """Draw a text.

    Args:
        rng: generator.
        odd: share of words that are odd characters, numbers or markup.
        most: largest number of words.
    """
    parts = []
    for _ in range(rng.choice((0, 1, 2, rng.randint(1, most), rng.randint(1, most), rng.randint(1, most)))):
        parts.append(rng.choice(_ODD) if rng.random() < odd else rng.choice(_WORDS))
        parts.append(rng.choice((" ", " ", " ", " ", " ", " ", ". ", ", ", "", "\n")))
    if rng.random() < 0.7:
        return "".join(parts).rstrip() + "." * (rng.random() < 0.5)
    return "".join(parts)


def changed(rng: random.Random, source: str) -> str:
    """Draw a text that resembles another: words are left out, repeated, exchanged or replaced."""
    words = source.split(" ")
    for _ in range(rng.randrange(1 + len(words) // 2)):
        at = rng.randrange(len(words)) if words else 0
        kind = rng.randrange(4)
        if kind == 0 and words:
            del words[at]
        elif kind == 1 and words:
            words.insert(at, words[rng.randrange(len(words))])
        elif kind == 2 and words:
            other = rng.randrange(len(words))
            words[at], words[other] = words[other], words[at]
        else:
            words[at : at + 1] = [rng.choice((*_WORDS, *_ODD))]
    return " ".join(words)
