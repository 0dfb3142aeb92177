"""Remove statements about findings that cannot be judged from a report.

A statement is removed where that is certain to leave a correct sentence: the whole sentence, if it is about such
findings alone; an item of an enumeration ("no consolidation, infiltrate or pneumonia"); one side of "without". Other
sentences stay as they are, and their findings are named to the caller.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

Unsure = Literal["written", "unsaid", "stated"]
CANNOT = "cannot be judged"
_SENTENCE = re.compile(r"(?<=[.!?])[ \t]+")
_WITHOUT = " without "


class Withheld(NamedTuple):
    """A report after the removal.

    Attributes:
        text: of the report.
        left: findings that are still stated or denied in it although they cannot be judged.
    """

    text: str
    left: tuple[str, ...]


def withhold(text: str, unsure: Collection[str], phrases: Mapping[str, Sequence[str]], *, say: bool) -> Withheld:
    """Remove statements about findings from a report.

    Args:
        text: findings, sentence by sentence; lines remain lines.
        unsure: names of the findings that cannot be judged.
        phrases: finding -> words that name it, the first one for the sentence that is added.
        say: end with a sentence that names them. A report of which nothing is left does so in any case.
    """
    if not unsure:
        return Withheld(text, ())
    words = _words(tuple((name, tuple(some)) for name, some in phrases.items()))
    lines, left = [], set[str]()
    for line in text.split("\n"):
        sentences = []
        for sentence in _SENTENCE.split(line):
            kept = words.without(sentence, unsure)
            left |= words.named(kept) & set(unsure)
            sentences.append(kept)
        lines.append(" ".join(filter(None, sentences)))
    found = "\n".join(line for line, before in zip(lines, text.split("\n"), strict=True) if line or not before)
    gone = [name for name in phrases if name in unsure and name not in left]
    if gone and (say or not found.strip()):
        found = f"{found} {_enumeration([phrases[name][0] for name in gone], 'and').capitalize()} {CANNOT}.".strip()
    return Withheld(found, tuple(name for name in phrases if name in left))


class _Words:
    def __init__(self, phrases: Sequence[tuple[str, Sequence[str]]]) -> None:
        self._finding = {word.lower(): name for name, words in phrases for word in words}
        longest_first = sorted(self._finding, key=len, reverse=True)
        named = rf"(?P<word>{'|'.join(map(re.escape, longest_first))})(?:e?s)?"
        self._word = re.compile(rf"\b{named}\b", re.IGNORECASE)
        plain = named.replace("?P<word>", "?:")
        item = rf"(?:(?:at least one|an?) )?{plain}(?: on (?:the (?:left|right)|both sides))?"
        self._join = re.compile(r",? (?:and|or) (?:no )?|, ", re.IGNORECASE)
        self._list = re.compile(rf"\b{item}(?:(?:{self._join.pattern}){item})+(?!\w)", re.IGNORECASE)

    def named(self, text: str) -> set[str]:
        """Findings that a text names."""
        return {self._finding[match["word"].lower()] for match in self._word.finditer(text)}

    def without(self, sentence: str, unsure: Collection[str]) -> str:
        """A sentence without the findings; "" if it is about nothing else, unchanged if that is not certain."""
        first, _, second = sentence.partition(_WITHOUT)
        if second and self.named(first) and self.named(second):
            end = second[-1] if second[-1] in ".!?" else ""
            before, after = self._clause(first, unsure), self._clause(second.removesuffix(end), unsure)
            if before and after:
                return f"{before}{_WITHOUT}{after}{end}"
            return f"{before}{end}" if before else f"No {after}{end}" if after else ""
        return self._clause(sentence, unsure)

    def _clause(self, clause: str, unsure: Collection[str]) -> str:
        named = self.named(clause)
        if not named & set(unsure):
            return clause
        if named <= set(unsure):
            return ""
        lists = [match for match in self._list.finditer(clause) if self.named(match[0]) & set(unsure)]
        if len(lists) != 1:
            return clause
        (match,) = lists
        outside = clause[: match.start()] + clause[match.end() :]
        items, joins = self._join.split(match[0]), self._join.findall(match[0])
        kept = [item for item in items if not self.named(item) & set(unsure)]
        if self.named(outside) & set(unsure) or not kept:
            return clause
        if len(kept) > 1 and joins[-1].rstrip().endswith("no"):  # "no effusion and no pneumothorax"
            changed = str(joins[-1]).join(kept)
        else:
            changed = _enumeration(kept, "or" if " or " in joins[-1] else "and")
        return clause[: match.start()] + changed + clause[match.end() :]


@lru_cache(maxsize=8)
def _words(phrases: tuple[tuple[str, tuple[str, ...]], ...]) -> _Words:
    return _Words(phrases)


def _enumeration(items: Sequence[str], join: str) -> str:
    return f"{', '.join(items[:-1])} {join} {items[-1]}" if len(items) > 1 else items[0]
