"""``rules``: a labeler of the fourteen observations by phrases. It needs no weights, and it is not CheXbert.

Every mention of an observation is positive unless a cue in its reach denies or doubts it (Chapman et al. 2001; Harkema
et al. 2009). Mentions are combined as in the CheXpert labeler (Irvin et al. 2019): positive before uncertain before
negative. "No Finding" is positive if no observation but "Support Devices" is positive or uncertain, and none of a list
of other findings is mentioned without denial.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from metrics.base import InputError, checked_texts, is_empty
from metrics.labels import BLANK, CLASSES, NEGATIVE, POSITIVE, UNCERTAIN, LabelF1
from metrics.rules import cues, phrases

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A stop ends a sentence unless it stands in a number; "1." or "1)" counts findings.
_SENTENCE = re.compile(r"\.(?!\d)|(?<=\w[!?])\s|\n|(?:^|(?<=\s))\d{1,2}[.)]\s")
_SPACE = re.compile(r"[\s_]+")
_PLAIN = str.maketrans({"\u2019": "'", "\u2018": "'", "\u2010": "-", "\u2012": "\u2013", "\u2014": " \u2013 "})
_EN_DASH = re.compile(r"(?<=\w)\u2013(?=\w)")
_BROKEN_WORD = re.compile(r"(?<=[a-z])-\r?\n\s*(?=[a-z])", re.IGNORECASE)
_BULLET = re.compile(r"\s*(?:\d+[.)]|[-\u2013*\u2022\u00b7\u25cf]\s)")
_NO_REACH = 150  # characters: a denial does not reach over a whole paragraph without stops
_OTHER = -1
_LONGEST = 2000  # characters of a sentence: text without stops is cut, so that time is linear in its length
_NARROWEST = 40  # characters: no report is wrapped into narrower lines
_ASKED = -2  # an open question: uncertain unless the text answers it
_STRONGER = {BLANK: 0, _ASKED: 1, NEGATIVE: 2, UNCERTAIN: 3, POSITIVE: 4}


class _Class(NamedTuple):
    column: int
    mention: re.Pattern[str]
    no_mention: re.Pattern[str] | None
    absence: re.Pattern[str] | None


class _Mention(NamedTuple):
    start: int
    end: int
    column: int


class _Cues(NamedTuple):
    no_cue: re.Pattern[str]
    denial: re.Pattern[str]
    denial_after: re.Pattern[str]
    denial_next: re.Pattern[str]
    doubt: re.Pattern[str]
    doubt_after: re.Pattern[str]
    doubt_next: re.Pattern[str]
    question: re.Pattern[str]
    turn: re.Pattern[str]
    goes_on: re.Pattern[str]
    same_list: re.Pattern[str]
    open_end: re.Pattern[str]
    open_start: re.Pattern[str]


class _Words(NamedTuple):
    """A sentence, what resembles cues masked, and the spans of its cues and turns."""

    line: str
    denials: list[tuple[int, int]]
    denials_after: list[tuple[int, int]]
    doubts: list[tuple[int, int]]
    doubts_after: list[tuple[int, int]]
    questions: list[tuple[int, int]]
    turns: list[tuple[int, int]]

    @classmethod
    def of(cls, line: str) -> _Words:
        known = _cues()
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


def label(text: str) -> tuple[int, ...]:
    """Return the 14 codes of :mod:`metrics.labels` for one report; a text without a letter or digit has no label.

    Raises:
        InputError: if ``text`` is not a string.
    """
    if not isinstance(text, str):
        raise InputError(f"a report must be a string, not {type(text).__name__}")
    if is_empty(text):
        return (BLANK,) * len(CLASSES)
    context, reading = _sections(_clean(text))
    codes, other = _codes(reading)
    if context and is_empty(reading):
        codes = [code if code in (_ASKED, UNCERTAIN) else BLANK for code in _codes(context)[0]]
    codes = [UNCERTAIN if code == _ASKED else code for code in codes]
    devices, nothing = CLASSES.index("Support Devices"), CLASSES.index("No Finding")
    found = any(code in (POSITIVE, UNCERTAIN) for index, code in enumerate(codes) if index not in (devices, nothing))
    codes[nothing] = BLANK if found or other or is_empty(reading) else POSITIVE
    return tuple(codes)


def _codes(text: str) -> tuple[list[int], bool]:
    """Return the strongest code of each class, and whether another finding is there."""
    codes, other = [BLANK] * len(CLASSES), False
    for sentence in _SENTENCE.split(text):
        if not (line := _SPACE.sub(" ", sentence).strip()):
            continue
        for start in range(0, len(line), _LONGEST):
            for index, code in _sentence(line[start : start + _LONGEST]):
                if index == _OTHER:
                    other |= code not in (NEGATIVE, _ASKED)
                elif _STRONGER[code] > _STRONGER[codes[index]]:
                    codes[index] = code
    return codes, other


def _clean(text: str) -> str:
    """Return lower-case text with plain apostrophes and dashes, full words for abbreviations, one statement a line."""
    if not text.isascii():
        text = _EN_DASH.sub("-", unicodedata.normalize("NFKC", text).translate(_PLAIN))
    if "\n" in text.replace("\n\n", " ") or "\r" in text:
        text = _unwrapped(_BROKEN_WORD.sub("", text))
    text = text.lower()
    return _abbreviations().sub(lambda match: cues.ABBREVIATIONS[match[0]], text)


def _unwrapped(text: str) -> str:
    """Join the lines that continue a sentence: those whose break a fixed width or an open phrase explains."""
    lines = text.splitlines()
    width = max(_NARROWEST, *map(len, lines))
    parts = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        word, *_ = following.split(maxsplit=1) or [""]
        narrow = len(line.rstrip()) + 1 + len(word) > width and not (word[:1].isupper() and not line.isupper())
        open_phrase = _cues().open_end.search(line) or _cues().open_start.match(following)
        joined = word and line.strip() and not _BULLET.match(following) and (narrow or open_phrase)
        parts.append(f"{line}{' ' if joined else chr(10)}")
    return "".join(parts)


def _sections(text: str) -> tuple[str, str]:
    """Split into context (history, indication, comparison) and reading: the context is no finding of the image.

    A heading of the context reaches to the next heading, or over one sentence where no other heading follows.
    """
    context, reading = list[str](), list[str]()
    begin, inside = 0, False
    heads = list(_headings().finditer(text)) if ":" in text else []
    for number, head in enumerate(heads, 1):
        (context if inside else reading).append(text[begin : head.start()])
        begin, inside = head.end(), head["context"] is not None
        if inside and number == len(heads):
            stop = _SENTENCE.search(text, begin)
            end = stop.end() if stop else len(text)
            context.append(text[begin:end])
            begin, inside = end, False
    reading.append(text[begin:])
    return "\n".join(context), "\n".join(reading)


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
    content = repr(
        [(name, value) for part in (phrases, cues) for name, value in sorted(vars(part).items()) if name.isupper()]
    )
    return f"{phrases.VERSION}:{hashlib.sha256(content.encode()).hexdigest()[:12]}"


@lru_cache(maxsize=4096)
def _sentence(line: str) -> tuple[tuple[int, int], ...]:
    """Return index and code of every mention in a sentence. Reports repeat most of their sentences."""
    found: list[tuple[int, int]] = []
    mentions: list[_Mention] = []
    for one in _classes():
        absent = [match.span() for match in one.absence.finditer(line)] if one.absence else []
        if absent:
            found.append((one.column, NEGATIVE))
        named = [match.span() for match in one.mention.finditer(line)]
        apart = [match.span() for match in one.no_mention.finditer(line)] if named and one.no_mention else []
        mentions += [
            _Mention(start, end, one.column)
            for start, end in named
            if not any(low < end and start < high for low, high in apart)
            and not any(low <= start and end <= high for low, high in absent)
        ]
    if mentions:
        mentions.sort()
        words = _Words.of(line)
        found += [(mention.column, _code(words, mentions, number)) for number, mention in enumerate(mentions)]
    return tuple(found)


def _code(words: _Words, mentions: Sequence[_Mention], number: int) -> int:
    """Return the code of a mention by the words around it."""
    known, (start, end, _) = _cues(), mentions[number]
    if known.doubt_next.match(words.line, end):
        return UNCERTAIN
    if known.denial_next.match(words.line, end):
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
    return _ASKED if _within(words.questions, low, start) else POSITIVE


def _within(spans: Sequence[tuple[int, int]], low: int, high: int) -> list[tuple[int, int]]:
    return [span for span in spans if low <= span[0] and span[1] <= high]


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
                cues.NO_CUES,
                cues.DENIALS,
                cues.DENIALS_AFTER,
                cues.DENIALS_NEXT,
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


@cache
def _headings() -> re.Pattern[str]:
    return re.compile(rf"\b(?:(?P<context>{'|'.join(cues.CONTEXT)})|{'|'.join(cues.READING)}) ?:")


@cache
def _abbreviations() -> re.Pattern[str]:
    ordered = sorted(cues.ABBREVIATIONS, key=len, reverse=True)
    return re.compile(rf"(?<![\w/])(?:{'|'.join(map(re.escape, ordered))})(?![\w/])|(?<=[a-z])n't\b")


def _any(patterns: Sequence[str]) -> re.Pattern[str]:
    """Join patterns, with one word boundary before all that begin with it: most positions fail there."""
    bounded = "|".join(f"(?:{pattern[2:]})" for pattern in patterns if pattern.startswith(r"\b"))
    free = [f"(?:{pattern})" for pattern in patterns if not pattern.startswith(r"\b")]
    return re.compile("|".join([rf"\b(?:{bounded})", *free] if bounded else free))


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
