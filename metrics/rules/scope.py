"""Reach of denial, doubt and question over the mentions in a sentence (Chapman et al. 2001; Harkema et al. 2009)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from metrics.labels import NEGATIVE, POSITIVE, UNCERTAIN
from metrics.rules import cues

_NO_REACH = 150  # characters: a denial does not reach over a whole paragraph without stops
ASKED = -2
"""Code of an open question: uncertain unless the text answers it."""


class Mention(NamedTuple):
    """Words in a sentence.

    Attributes:
        start: first character.
        end: character after the last one.
        kind: number that the caller gives to the mention.
    """

    start: int
    end: int
    kind: int = 0


class _Cues(NamedTuple):
    no_cue: re.Pattern[str]
    denial: re.Pattern[str]
    denial_after: re.Pattern[str]
    denial_next: re.Pattern[str]
    field_denied: re.Pattern[str]
    in_field: re.Pattern[str]
    doubt: re.Pattern[str]
    doubt_after: re.Pattern[str]
    doubt_next: re.Pattern[str]
    question: re.Pattern[str]
    turn: re.Pattern[str]
    goes_on: re.Pattern[str]
    same_list: re.Pattern[str]
    open_end: re.Pattern[str]
    open_start: re.Pattern[str]


class Words(NamedTuple):
    """A sentence, what resembles cues masked, and the spans of its cues and turns."""

    line: str
    denials: list[tuple[int, int]]
    denials_after: list[tuple[int, int]]
    doubts: list[tuple[int, int]]
    doubts_after: list[tuple[int, int]]
    questions: list[tuple[int, int]]
    turns: list[tuple[int, int]]

    @classmethod
    def of(cls, line: str) -> Words:
        known = cue_patterns()
        of_words = (known.denial, known.denial_after, known.doubt, known.doubt_after, known.question)
        if not any(cue.search(line) for cue in of_words):
            return cls(line, [], [], [], [], [], [])
        line = known.no_cue.sub(lambda match: "~" * len(match[0]), line)
        denials, denials_after, doubts, doubts_after, questions = (
            [match.span() for match in cue.finditer(line)] for cue in of_words
        )
        turns = [match.span() for match in known.turn.finditer(line)]
        return cls(line, denials, denials_after, doubts, doubts_after, questions, turns)

    @property
    def cued(self) -> bool:
        return any(self[1:6])


def code(words: Words, mentions: Sequence[Mention], number: int) -> int:
    """Return the code of a mention by the words around it."""
    known, (start, end, _) = cue_patterns(), mentions[number]
    if (same := _answer(words, mentions, number)) is not None:
        return code(words, mentions, same)
    if known.doubt_next.match(words.line, end):
        return UNCERTAIN
    if known.denial_next.match(words.line, end) or known.field_denied.match(
        words.line, _end_of_field(words, mentions, number)
    ):
        return NEGATIVE
    if not words.cued:
        return POSITIVE
    reach = max((high for _, high in words.turns if high <= start), default=0)
    # An "and" or "which" right after the mention continues what is said of it.
    stop = min(
        (low for low, _ in words.turns if low >= end and (low > end + 2 or not known.goes_on.match(words.line, low))),
        default=len(words.line),
    )
    last = end
    for other in mentions[number + 1 :]:  # words after another mention are about that one, unless both are in one list
        if other.start >= last and not known.same_list.fullmatch(words.line, last, other.start):
            stop = min(stop, other.start)
            break
        last = max(last, other.end)
    low = max(reach, start - _NO_REACH)
    denials = _within(words.denials, low, end)
    doubts = _within(words.doubts, low, end)
    if _within(words.doubts_after, end, min(stop, end + _NO_REACH)) and not _within(denials, low, start):
        return UNCERTAIN
    if _within(words.denials_after, end, min(stop, end + 60)):
        return NEGATIVE
    if denials and not any(first <= denials[-1][0] < last for first, last in doubts):
        return NEGATIVE
    if doubts:
        return UNCERTAIN
    return ASKED if _within(words.questions, low, start) else POSITIVE


def _answer(words: Words, mentions: Sequence[Mention], number: int) -> int | None:
    """Return the mention that repeats the name of a field, as in "effusion: no pleural effusion"; None if none does."""
    start, end, _ = mentions[number]
    if not words.line.startswith((":", " :"), end):
        return None
    name = words.line[start:end].removesuffix("s")
    for at, other in enumerate(mentions[number + 1 :], number + 1):
        repeated = words.line[other.start : other.end].removesuffix("s")
        if other.start >= end and (repeated.endswith(name) or name.endswith(repeated)):
            return at
    return None


def _end_of_field(words: Words, mentions: Sequence[Mention], number: int) -> int:
    """Return the end of the last mention of a field such as "pneumothorax and effusion: none"."""
    end = mentions[number].end
    for other in mentions[number + 1 :]:
        if other.start >= end:
            if not cue_patterns().in_field.fullmatch(words.line, end, other.start):
                break
            end = other.end
    return end


def _within(spans: Sequence[tuple[int, int]], low: int, high: int) -> list[tuple[int, int]]:
    return [span for span in spans if low <= span[0] and span[1] <= high]


@cache
def cue_patterns() -> _Cues:
    return _Cues(
        *map(
            any_of,
            (
                cues.NO_CUES,
                cues.DENIALS,
                cues.DENIALS_AFTER,
                cues.DENIALS_NEXT,
                cues.FIELDS_DENIED,
                cues.IN_FIELD,
                cues.DOUBTS,
                cues.DOUBTS_AFTER,
                cues.DOUBTS_NEXT,
                cues.QUESTIONS,
                cues.TURNS,
                cues.GOES_ON,
                cues.SAME_LIST,
                cues.OPEN_ENDS,
                cues.OPEN_STARTS,
            ),
        )
    )


def any_of(patterns: Sequence[str]) -> re.Pattern[str]:
    """Join patterns, with one word boundary before all that begin with it: most positions fail there."""
    bounded = "|".join(f"(?:{pattern[2:]})" for pattern in patterns if pattern.startswith(r"\b"))
    free = [f"(?:{pattern})" for pattern in patterns if not pattern.startswith(r"\b")]
    return re.compile("|".join([rf"\b(?:{bounded})", *free] if bounded else free))
