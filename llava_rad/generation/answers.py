"""Cut of a model's answer: reasoning, refusals and headings, to the findings and the impression of a report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llava_rad.generation.profiles import Profile

_BOX: Final = re.compile(r"\\boxed\s*\{")
_HEADINGS: Final = {
    "findings": "findings", "finding": "findings", "impression": "impression", "impressions": "impression",
    "conclusion": "impression", "technique": "", "indication": "", "comparison": "", "history": "",
    "clinical history": "", "clinical information": "", "examination": "", "exam": "", "procedure": "",
    "disclaimer": "",
}  # fmt: skip
"""Heading of an answer, in lower case -> section of the report; "" for words that are no part of it."""
# A heading begins a line, or follows a sentence as in "Findings: … Impression: …"; it may be Markdown or in braces.
_HEADING: Final = re.compile(
    r"(?:^|(?<=[\n.!?}]))[ \t]*(?:#{1,6}[ \t]*)?[*_]{0,2}(" + "|".join(sorted(_HEADINGS, key=len, reverse=True))
    + r")[ \t]*(?:[*_]{1,2}[ \t]*:?|:[*_]{0,2}|(?=\n|$))[ \t]*",
    re.IGNORECASE,
)  # fmt: skip
_INTRODUCTION: Final = 300
"""Longest text before the findings' heading, in characters, that is taken for an introduction and left out."""
_BULLET: Final = re.compile(r"^[ \t]*(?:[-*•+]|\d{1,2}[.)])[ \t]+", re.MULTILINE)
_NOT_YET: Final = re.compile(r"\s*(?:[-*•+#_{]*|\d{1,2}[.)]?)\s*")
_MARKUP: Final = re.compile(r"\*\*|^[ \t]*#{1,6}[ \t]*", re.MULTILINE)  # "___" is a left-out name

UNFINISHED: Final = "the model's answer ended within its reasoning, which is not shown: no findings are left"
NO_ANSWER: Final = "the model marked no final answer in its text, which is not shown: no findings are left"
REFUSED: Final = "the model refused to answer"
REMOVED: Final = "marks of places in the image are left out of the model's text: how they are to be read is not known"


@dataclass(frozen=True)
class Answer:
    """Sections of a model's answer.

    Attributes:
        findings: text of the findings; all of the answer if it has no headings.
        impression: text of the impression; None if there is none.
        notes: what was left out, for the report's warnings.
    """

    findings: str
    impression: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Text of a draft: the findings, and the impression on the next line under its heading."""
        return self.findings if self.impression is None else f"{self.findings}\nIMPRESSION: {self.impression}".strip()


def split(profile: Profile, answer: str, complete: bool) -> Answer:
    """Cut an answer as :meth:`Profile.split` describes."""
    text, notes = answer, list[str]()
    for marks in profile.reasoning:
        begin, end = re.escape(marks.begin), re.escape(marks.end)
        text = re.sub(f"{begin}.*?{end}", "", text, flags=re.DOTALL)
        text = text.rpartition(marks.end)[2]  # the prompt may hold the first mark
        text, begun, _ = text.partition(marks.begin)
        if begun and not text.strip():
            return Answer("", notes=(UNFINISHED,) if complete else ())
        if not complete:
            text = _without_start(text, marks.begin)
    if profile.boxed:
        found = _boxed(text)
        if found is None:
            return Answer("", notes=(NO_ANSWER,) if complete else ())
        text = found
    if any(re.match(expression, text.strip(), re.IGNORECASE) for expression in profile.refusals):
        return Answer("", notes=(REFUSED,) if complete else ())
    for expression in profile.removed:
        text, number = re.subn(expression, "", text)
        if number and REMOVED not in notes:
            notes.append(REMOVED)
    return _sections(text if complete else _certain(text), notes, complete)


def _without_start(text: str, mark: str) -> str:
    """Leave out the end of a text that may be the beginning of a mark."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return text[:-length]
    return text


def _boxed(text: str) -> str | None:
    """Return the content of the last ``\\boxed{…}``, up to the end if it is not closed; None if there is none."""
    starts = list(_BOX.finditer(text))
    if not starts:
        return None
    at, depth = starts[-1].end(), 1
    for end in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return _without_latex(text[at:end])
    return _without_latex(text[at:])


def _without_latex(text: str) -> str:
    """Take the words out of ``\\text{…}``, and the backslash from ``\\%`` and its like."""
    inner = re.fullmatch(r"\s*\\text\s*\{(.*?)\}?\s*", text, re.DOTALL)
    return re.sub(r"\\([%&_#$])", r"\1", inner[1] if inner else text)


def _certain(text: str) -> str:
    """Leave out the end of an unfinished text that may still become a heading or a mark of Markdown."""
    head, _, last = text.rpartition("\n")
    if _NOT_YET.fullmatch(last) or _may_be_heading(last):
        return head
    cut = max(last.rfind(mark) for mark in (". ", "! ", "? ", "} "))
    if cut >= 0 and _may_be_heading(last[cut + 1 :]):
        return text[: len(text) - len(last) + cut + 1]
    return text.rstrip("*#{")


def _may_be_heading(text: str) -> bool:
    words = text.strip(" \t#*_{:").lower()
    return any(heading.startswith(words) for heading in _HEADINGS)


def _sections(text: str, notes: list[str], complete: bool) -> Answer:
    """Cut a text at its headings."""
    found = list(_HEADING.finditer(text))
    names = [match[1].lower() for match in found]
    begun = any(_HEADINGS[name] == "findings" for name in names)
    if not complete and not begun and len(text) < _INTRODUCTION:
        return Answer("")  # it may still turn out to be an introduction or a refusal
    sections: dict[str, list[str]] = {"findings": [], "impression": [], "": []}
    left_out = list[str]()
    first = _tidy(text[: found[0].start()] if found else text)
    if begun and first and len(first) < _INTRODUCTION:
        left_out.append("introduction")
    elif first:
        sections["findings"].append(first)
    for number, (match, name) in enumerate(zip(found, names, strict=True)):
        part = _tidy(text[match.end() : found[number + 1].start() if number + 1 < len(found) else len(text)])
        if part:
            sections[_HEADINGS[name]].append(part)
            left_out += [] if _HEADINGS[name] else [name]
    if left_out:
        notes = [*notes, f"left out of the model's answer: {', '.join(dict.fromkeys(left_out))}"]
    impression = "\n".join(sections["impression"])
    return Answer("\n".join(sections["findings"]), impression or None, tuple(notes))


def _tidy(text: str) -> str:
    """Remove Markdown, bullets, enclosing braces and empty lines."""
    text = text.strip()
    if text.startswith("{"):
        text = text[1:].removesuffix("}")
    text = _BULLET.sub("", _MARKUP.sub("", text))
    return "\n".join(line for line in (line.strip() for line in text.splitlines()) if line)
