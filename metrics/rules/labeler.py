"""``rules``: a labeler of the fourteen observations by phrases. It needs no weights, and it is not CheXbert.

Every mention of an observation is positive unless a cue in its reach denies or doubts it (Chapman et al. 2001; Harkema
et al. 2009). Mentions are combined as in the CheXpert labeler (Irvin et al. 2019): positive before uncertain before
negative. "No Finding" is positive if no observation but "Support Devices" is positive or uncertain, and none of a list
of other findings is mentioned without denial.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from metrics.base import InputError, checked_texts, is_empty
from metrics.labels import BLANK, CLASSES, NEGATIVE, POSITIVE, UNCERTAIN, LabelF1
from metrics.rules import phrases

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A stop ends a sentence unless it stands in a number; "1." at the start of a line or sentence counts findings.
_SENTENCE = re.compile(r"(?:\.(?!\d)|[!?](?=\s)|\n\s*\n|\n(?=\s*(?:\d+[.)]|[A-Z-]))|(?<=\s)\d\.\s)")
_SPACE = re.compile(r"[\s_]+")
_NO_REACH = 150  # characters: a denial does not reach over a whole paragraph without stops
_OTHER = -1
_LONGEST = 2000  # characters of a sentence: text without stops is cut, so that time is linear in its length
_STRONGER = {BLANK: 0, NEGATIVE: 1, UNCERTAIN: 2, POSITIVE: 3}


class _Class(NamedTuple):
    column: int
    mention: re.Pattern[str]
    no_mention: re.Pattern[str] | None
    absence: re.Pattern[str] | None


class _Cues(NamedTuple):
    not_denial: re.Pattern[str]
    denial: re.Pattern[str]
    denial_after: re.Pattern[str]
    doubt: re.Pattern[str]
    doubt_after: re.Pattern[str]
    turn: re.Pattern[str]


def label(text: str) -> tuple[int, ...]:
    """Return the 14 codes of :mod:`metrics.labels` for one report; a text without a letter or digit has no label.

    Raises:
        InputError: if ``text`` is not a string.
    """
    if not isinstance(text, str):
        raise InputError(f"a report must be a string, not {type(text).__name__}")
    codes = [BLANK] * len(CLASSES)
    if is_empty(text):
        return tuple(codes)
    other = False
    for sentence in _SENTENCE.split(text):
        line = _SPACE.sub(" ", sentence).strip().lower()
        for start in range(0, len(line), _LONGEST):
            for index, code in _sentence(line[start : start + _LONGEST]):
                if index == _OTHER:
                    other |= code != NEGATIVE
                elif _STRONGER[code] > _STRONGER[codes[index]]:
                    codes[index] = code
    devices, nothing = CLASSES.index("Support Devices"), CLASSES.index("No Finding")
    found = any(code in (POSITIVE, UNCERTAIN) for index, code in enumerate(codes) if index not in (devices, nothing))
    codes[nothing] = BLANK if found or other else POSITIVE
    return tuple(codes)


def label_all(texts: Sequence[str]) -> NDArray[np.int8]:
    """Return the codes of N reports: ``[N, 14]``.

    Raises:
        InputError: if ``texts`` is not a list of strings.
    """
    import numpy as np

    texts = checked_texts(texts)
    known = {text: label(text) for text in dict.fromkeys(texts)}
    return np.array([known[text] for text in texts], dtype=np.int8)


@cache
def weights_id() -> str:
    """Return the version and fingerprint of the phrases."""
    content = repr([(name, value) for name, value in sorted(vars(phrases).items()) if name.isupper()])
    return f"{phrases.VERSION}:{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _sentence(line: str) -> Iterable[tuple[int, int]]:
    """Yield index and code of every mention in a sentence."""
    cues = _cues()
    turns = [(match.start(), match.end()) for match in cues.turn.finditer(line)]
    masked = cues.not_denial.sub(lambda match: "~" * len(match[0]), line)
    for one in _classes():
        apart = [match.span() for match in one.no_mention.finditer(line)] if one.no_mention else []
        absent = [match.span() for match in one.absence.finditer(line)] if one.absence else []
        if absent:
            yield one.column, NEGATIVE
        for match in one.mention.finditer(line):
            start, end = match.span()
            if any(low < end and start < high for low, high in apart) or any(
                low <= start and end <= high for low, high in absent
            ):
                continue
            yield one.column, _code(line, masked, start, end, turns, cues)


def _code(line: str, masked: str, start: int, end: int, turns: Sequence[tuple[int, int]], cues: _Cues) -> int:
    """Return the code of a mention by the words around it."""
    reach = max((high for low, high in turns if high <= start), default=0)
    stop = min((low for low, _ in turns if low >= end), default=len(line))
    before, inside = masked[max(reach, start - _NO_REACH) : start], masked[start:end]
    after = line[end:stop][:_NO_REACH]
    if cues.doubt_after.search(after) and not cues.denial.search(before):
        return UNCERTAIN
    if cues.denial_after.search(after[:60]):
        return NEGATIVE
    denials = list(cues.denial.finditer(before + inside))
    doubts = list(cues.doubt.finditer(before + inside))
    if denials and not any(doubt.start() <= denials[-1].start() < doubt.end() for doubt in doubts):
        return NEGATIVE
    return UNCERTAIN if doubts else POSITIVE


@cache
def _classes() -> tuple[_Class, ...]:
    def joined(table: dict[str, tuple[str, ...]], name: str) -> re.Pattern[str] | None:
        patterns = table.get(name, ())
        return _any(patterns) if patterns else None

    named = (
        _Class(CLASSES.index(name), _any(patterns), joined(phrases.NOT_MENTIONS, name), joined(phrases.ABSENCES, name))
        for name, patterns in phrases.MENTIONS.items()
    )
    return *named, _Class(_OTHER, _any(phrases.OTHER_FINDINGS), None, None)


@cache
def _cues() -> _Cues:
    return _Cues(
        *map(
            _any,
            (
                phrases.NOT_DENIALS,
                phrases.DENIALS,
                phrases.DENIALS_AFTER,
                phrases.DOUBTS,
                phrases.DOUBTS_AFTER,
                phrases.TURNS,
            ),
        )
    )


def _any(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


class Rules:
    """The labeler in the form of a model that annotates."""

    def __init__(self) -> None:
        self.weights_id, self.warnings = weights_id(), list[str]()

    def portions(self, texts: Sequence[str], *, batch_size: int = 1) -> Iterator[list[list[int]]]:
        """Yield the codes of texts one by one."""
        for text in texts:
            yield [list(label(text))]


class RulesF1(LabelF1):
    """F1 of the labels of the phrase rules, which are not CheXbert's, as a registered metric."""

    kind = "rules"
    kept = False
    labeler = "rules (not CheXbert)"
    summary = "macro and micro F1 of the labels of phrase rules, which are not CheXbert's; needs no weights"
    headline = "rules_macro_f1_14"

    def load(self) -> Rules:
        """Return the labeler."""
        return Rules()
