"""``rules``: a labeler of the fourteen observations by phrases. It needs no weights, and it is not CheXbert.

Every mention of an observation is positive unless a cue in its reach denies or doubts it (Chapman et al. 2001; Harkema
et al. 2009). Mentions are combined as in the CheXpert labeler (Irvin et al. 2019): positive before uncertain before
negative. "No Finding" is positive if no observation but "Support Devices" is positive or uncertain, and none of a list
of other findings is mentioned without denial.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from metrics.base import InputError, checked_texts, is_empty
from metrics.labels import BLANK, CLASSES, NEGATIVE, POSITIVE, UNCERTAIN, LabelF1
from metrics.rules import cues, phrases
from metrics.rules.scope import ASKED, Mention, Words, any_of, code
from metrics.rules.text import clean, parts, sentences

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SPACE = re.compile(r"[\s_]+")
_OTHER = -1
_LONGEST = 2000  # characters of a sentence: text without stops is cut, so that time is linear in its length
_STRONGER = {BLANK: 0, ASKED: 1, NEGATIVE: 2, UNCERTAIN: 3, POSITIVE: 4}


class _Class(NamedTuple):
    column: int
    mention: re.Pattern[str]
    no_mention: re.Pattern[str] | None
    absence: re.Pattern[str] | None


def label(text: str) -> tuple[int, ...]:
    """Return the 14 codes of :mod:`metrics.labels` for one report; a text without a letter or digit has no label.

    Raises:
        InputError: if ``text`` is not a string.
    """
    if not isinstance(text, str):
        raise InputError(f"a report must be a string, not {type(text).__name__}")
    if is_empty(text):
        return (BLANK,) * len(CLASSES)
    cleaned = clean(text).text
    context, reading = (
        "\n".join(cleaned[start:end] for start, end, inside in parts(cleaned) if inside == wanted)
        for wanted in (True, False)
    )
    codes, other = _codes(reading)
    if context and is_empty(reading):
        codes = [value if value in (ASKED, UNCERTAIN) else BLANK for value in _codes(context)[0]]
    codes = [UNCERTAIN if value == ASKED else value for value in codes]
    devices, nothing = CLASSES.index("Support Devices"), CLASSES.index("No Finding")
    found = any(value in (POSITIVE, UNCERTAIN) for index, value in enumerate(codes) if index not in (devices, nothing))
    codes[nothing] = BLANK if found or other or is_empty(reading) else POSITIVE
    return tuple(codes)


def _codes(text: str) -> tuple[list[int], bool]:
    """Return the strongest code of each class, and whether another finding is there."""
    codes, other = [BLANK] * len(CLASSES), False
    for begin, end in sentences(text):
        if not (line := _SPACE.sub(" ", text[begin:end]).strip()):
            continue
        for start in range(0, len(line), _LONGEST):
            for index, value in _sentence(line[start : start + _LONGEST]):
                if index == _OTHER:
                    other |= value not in (NEGATIVE, ASKED)
                elif _STRONGER[value] > _STRONGER[codes[index]]:
                    codes[index] = value
    return codes, other


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
    mentions: list[Mention] = []
    for one in _classes():
        absent = [match.span() for match in one.absence.finditer(line)] if one.absence else []
        if absent:
            found.append((one.column, NEGATIVE))
        named = [match.span() for match in one.mention.finditer(line)]
        apart = [match.span() for match in one.no_mention.finditer(line)] if named and one.no_mention else []
        mentions += [
            Mention(start, end, one.column)
            for start, end in named
            if not any(low < end and start < high for low, high in apart)
            and not any(low <= start and end <= high for low, high in absent)
        ]
    if mentions:
        mentions.sort()
        words = Words.of(line)
        found += [(mention.kind, code(words, mentions, number)) for number, mention in enumerate(mentions)]
    return tuple(found)


@cache
def _classes() -> tuple[_Class, ...]:
    def joined(table: dict[str, tuple[str, ...]], name: str) -> re.Pattern[str] | None:
        patterns = table.get(name, ())
        return any_of(patterns) if patterns else None

    named = (
        _Class(
            CLASSES.index(name), any_of(patterns), joined(phrases.NOT_MENTIONS, name), joined(phrases.ABSENCES, name)
        )
        for name, patterns in phrases.MENTIONS.items()
    )
    return *named, _Class(_OTHER, any_of(phrases.OTHER_FINDINGS), None, None)


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
    learned = False
    labeler = "rules (not CheXbert)"
    summary = "macro and micro F1 of the labels of phrase rules, which are not CheXbert's; needs no weights"
    headline = "rules_macro_f1_14"

    def load(self) -> Rules:
        """Return the labeler."""
        return Rules()
