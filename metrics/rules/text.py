"""Reports as lower-case text with plain punctuation, each character traced to the report; parts and sentences."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from metrics.rules import cues
from metrics.rules.scope import cue_patterns

# A stop ends a sentence unless it stands in a number; "1." or "1)" counts findings.
_SENTENCE = re.compile(r"\.(?!\d)|(?<=\w[!?])\s|\n|(?:^|(?<=\s))\(?\d{1,2}[.)]\s")
_PLAIN = str.maketrans({"\u2019": "'", "\u2018": "'", "\u2010": "-", "\u2012": "\u2013", "\u2014": " \u2013 "})
_EN_DASH = re.compile(r"(?<=\w)\u2013(?=\w)")
_BROKEN_WORD = re.compile(r"(?:(?<=[a-z])-[ \t]{0,9}\n\s*(?=[a-z])|(?<=[A-Z])-[ \t]{0,9}\n\s*(?=[A-Z]))")
_BROKEN_END = re.compile(r"[a-zA-Z]-[ \t]{0,9}$")
# Signs that stand between two statements as a line break does.
_BREAK = re.compile(r"<br ?/?>|\|(?=\s)|(?<=\s)\||(?<=[\w.)])\t(?=[A-Z])|\s(?=[\u2022\u25cf\u25aa\u2023] ?\w)")
_STOP = re.compile(r"[.;!?](?!\d)")
_BULLET = re.compile(r"\s*(?:\d+[.)]|[-\u2013*\u2022\u00b7\u25cf]\s)")
_NARROWEST = 40  # characters: no report is wrapped into narrower lines


@dataclass(frozen=True)
class Aligned:
    """A changed text whose characters know their position in the original.

    Attributes:
        text: the changed text.
        origins: position in the original of each character; None if nothing has moved.
    """

    text: str
    origins: Sequence[int] | None = None

    def origin(self, position: int) -> int:
        """Return the position in the original of a character, or of the end of the text."""
        if self.origins is None:
            return position
        return self.origins[position] if position < len(self.origins) else self._end

    @property
    def _end(self) -> int:
        return self.origins[-1] + 1 if self.origins else 0

    def sub(self, pattern: re.Pattern[str], replacement: Callable[[re.Match[str]], str]) -> Aligned:
        """Return the text with every match replaced; new characters come from the first one that they replace."""
        pieces, origins, last = list[str](), list[int](), 0
        for match in pattern.finditer(self.text):
            new = replacement(match)
            pieces += [self.text[last : match.start()], new]
            origins += [self.origin(at) for at in range(last, match.start())]
            origins += [self.origin(min(match.start() + at, match.end() - 1)) for at in range(len(new))]
            last = match.end()
        if not pieces:
            return self
        pieces.append(self.text[last:])
        origins += [self.origin(at) for at in range(last, len(self.text))]
        return Aligned("".join(pieces), origins)

    def mapped(self, change: Callable[[str], str]) -> Aligned:
        """Return the text changed as a whole, or character by character where that changes its length."""
        whole = change(self.text)
        if len(whole) == len(self.text):
            return Aligned(whole, self.origins)
        return self.sub(re.compile(r"(?s)."), lambda match: change(match[0]))


def clean(text: str) -> Aligned:
    """Return lower-case text with plain apostrophes and dashes, full words for abbreviations, one statement a line."""
    found = Aligned(text)
    if not text.isascii():
        found = found.mapped(lambda part: unicodedata.normalize("NFKC", part).translate(_PLAIN))
        found = found.sub(_EN_DASH, lambda match: "-")
    found = found.sub(_BREAK, lambda match: "\n" + " " * (len(match[0]) - 1))
    if len(found.text.splitlines()) > 1:
        found = Aligned(_unwrapped(found.text), found.origins).sub(_BROKEN_WORD, lambda match: "")
    return found.mapped(str.lower).sub(_abbreviations(), lambda match: cues.ABBREVIATIONS[match[0]])


def _unwrapped(text: str) -> str:
    """Join the lines that continue a sentence: those whose break a fixed width or an open phrase explains.

    Breaks become as many spaces or line feeds, so that the length stays. Those in a broken word stay.
    """
    ended = text.splitlines(keepends=True)
    lines = text.splitlines()
    width = max(_NARROWEST, *map(len, lines))
    words = [(following.split(maxsplit=1) or [""])[0] for following in [*lines[1:], ""]]
    narrow = [len(line.rstrip()) + 1 + len(word) > width for line, word in zip(lines, words, strict=True)]
    # The longest of some lines is no fixed width: without stops all breaks, and several, must be explained by it.
    breaks = [explained for explained, word in zip(narrow, words, strict=True) if word]
    fixed = _STOP.search(text) is not None or (len(breaks) > 1 and all(breaks))
    parts = []
    for number, (whole, line, word) in enumerate(zip(ended, lines, words, strict=True)):
        following = lines[number + 1] if word else ""
        begins = word[:1].isupper() and not line.isupper()
        joined = word and line.strip() and not _BULLET.match(following) and not _BROKEN_END.search(line)
        joined = joined and ((fixed and narrow[number] and not begins) or _open(line, following, begins=begins))
        parts.append(line + (" " if joined else "\n") * (len(whole) - len(line)))
    return "".join(parts)


def _open(line: str, following: str, *, begins: bool) -> bool:
    """Tell whether two lines are parts of a phrase; ``begins``: the second begins with a capital letter."""
    end = cue_patterns().open_end.search(line.lower())
    if end and not (begins and end[0].strip() in ("left", "right", "bilateral")):  # "... on the left"
        return True
    return cue_patterns().open_start.match(following.lower()) is not None


def parts(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yield start and end of each part, and if it is context: history, indication, comparison, no finding of the image.

    A heading of the context reaches to the next heading, or over one sentence where no other heading follows.
    """
    begin, inside = 0, False
    heads = list(_headings().finditer(text)) if ":" in text else []
    for number, head in enumerate(heads, 1):
        yield begin, head.start(), inside
        begin, inside = head.end(), head["context"] is not None
        if inside and number == len(heads):
            stop = _SENTENCE.search(text, begin)
            end = stop.end() if stop else len(text)
            yield begin, end, True
            begin, inside = end, False
    yield begin, len(text), inside


def sentences(text: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield start and end of each sentence in a part of a text; some are empty."""
    end = len(text) if end is None else end
    for match in _SENTENCE.finditer(text, start, end):
        yield start, match.start()
        start = match.end()
    yield start, end


@cache
def _headings() -> re.Pattern[str]:
    running = "".join(
        rf"(?<!\b{words} )" for words in ("in", "on", "in the", "on the", "in this", "on this", "by", "at")
    )
    return re.compile(rf"\b(?:{running}(?P<context>{'|'.join(cues.CONTEXT)})|{'|'.join(cues.READING)}) ?:")


@cache
def _abbreviations() -> re.Pattern[str]:
    ordered = sorted(cues.ABBREVIATIONS, key=len, reverse=True)
    return re.compile(rf"(?<![\w/])(?:{'|'.join(map(re.escape, ordered))})(?![\w/])|(?<=[a-z])n't\b")
