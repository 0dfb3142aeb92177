"""Answers of models that write Findings and Impression: one form for training, and the cut into sections.

An answer is ``FINDINGS: ...`` on one line and ``IMPRESSION: ...`` on the next. Sections of a target are one line each,
so a heading at the begin of a line is never part of a section.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from llava_rad.model.prompt import encode_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer

Section = Literal["findings", "impression"]
FINDINGS_ALONE: Final[tuple[Section, ...]] = ("findings",)
BOTH: Final[tuple[Section, ...]] = ("findings", "impression")
REQUEST: Final = "Then give the impression."
"""Follows the instruction of a checkpoint that is trained for both sections."""
HEADINGS: Final = ("FINDINGS:", "IMPRESSION:")
SHOWN_HEADING: Final = f"\n\n{HEADINGS[1]}\n"
"""Between the sections, where a report is shown as text."""
_FINDINGS: Final = re.compile(rf"\A\s*{HEADINGS[0]}", re.IGNORECASE)
_IMPRESSION: Final = re.compile(rf"^[^\S\n]*{HEADINGS[1]}", re.IGNORECASE | re.MULTILINE)


class Answer(NamedTuple):
    """Sections of an answer; ``impression`` is None where the answer has no heading of it."""

    findings: str
    impression: str | None = None


def joined(findings: str, impression: str = "") -> str:
    """Compose the target of a study; without an impression it has no heading of one."""
    lines = [f"{HEADINGS[0]} {' '.join(findings.split())}"]
    if impression.strip():
        lines.append(f"{HEADINGS[1]} {' '.join(impression.split())}")
    return "\n".join(lines)


def divided(text: str) -> Answer:
    """Cut an answer into its sections; text without a heading is findings."""
    heading = _IMPRESSION.search(text)
    findings = text if heading is None else text[: heading.start()]
    findings = _FINDINGS.sub("", findings, count=1).strip()
    return Answer(findings, None if heading is None else text[heading.end() :].strip())


def headed(sentences: Sequence[tuple[str, str]]) -> list[str]:
    """Put the headings of an answer before the first sentence of each section: (section, sentence), in order."""
    marks = {"findings": f"{HEADINGS[0]} ", "impression": f"\n{HEADINGS[1]} "}
    return [marks.pop(section, "") + text for section, text in sentences]


def shown(text: str, *, ended: bool = True) -> str:
    """Return an answer as text for people: the findings, then the impression under its heading.

    Args:
        text: the answer, or its begin without trailing white space.
        ended: False holds back a last line that may become a heading, so that a longer begin only adds text.
    """
    if not ended:
        head, _, last = text.rpartition("\n")
        headings = HEADINGS if not head.strip() else HEADINGS[1:]
        if any(heading.startswith(last.strip().upper()) for heading in headings):
            text = head.rstrip()
    answer = divided(text)
    return answer.findings + (SHOWN_HEADING + answer.impression if answer.impression else "")


class ShownStream:
    """Shows an answer as it is generated: the joined texts equal ``shown`` of the whole answer.

    Args:
        with_impression: the answer has headings; else its pieces are shown as they are.
    """

    def __init__(self, *, with_impression: bool) -> None:
        self._with_impression = with_impression
        self._text = self._shown = ""

    def add(self, piece: str) -> list[str]:
        """Take a piece of the answer; return the texts to show now, one or none."""
        if not self._with_impression:
            return [piece]
        self._text += piece
        return self._more(ended=False)

    def end(self) -> list[str]:
        """Return the text that was held back, if any."""
        return self._more(ended=True) if self._with_impression else []

    def _more(self, *, ended: bool) -> list[str]:
        text = shown(self._text.rstrip(), ended=ended)
        more = text[len(self._shown) :] if text.startswith(self._shown) else ""
        self._shown += more
        return [more] if more else []


def encode_target(tokenizer: Tokenizer, findings: str, impression: str, eos: int) -> list[int]:
    """Tokenise the target of both sections.

    ``eos`` is last only after an impression: a study without one teaches its findings, not that a report ends there.
    """
    ids = encode_answer(tokenizer, joined(findings, impression), eos)
    return ids if impression.strip() else ids[:-1]
