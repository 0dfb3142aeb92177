"""Statements of reports on patients over time: what they say is there, has changed, and answers the question.

Reads the wording of :mod:`scripts.phantom.course`, in true and generated reports alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .course import BEHIND, CHANGES, EXTENTS, QUESTIONS, SLOTS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Statements = frozenset[tuple[str, str]]
_NAMES = "|".join(slot.name for slot in SLOTS)
_WORDS = {phrase: word for word, phrase in CHANGES.items()}
_CHANGE = re.compile(rf"\b(?:{'|'.join(EXTENTS)}) ({_NAMES})\. It ({'|'.join(_WORDS)})\.")
_EXTENT = re.compile(rf"\b({'|'.join(EXTENTS[1:])}) ({_NAMES})\.")
_BEHIND = re.compile(rf"(?<!\S){re.escape(BEHIND)}")
_ANSWERS = re.compile("|".join(rf"(?<!\S){re.escape(text)}" for pair in QUESTIONS.values() for text in pair if text))


def changes(text: str) -> Statements:
    """Return each finding that is said to have a change, with the word: a key of CHANGES."""
    return frozenset((name, _WORDS[phrase]) for name, phrase in _CHANGE.findall(text))


def extents(text: str) -> Statements:
    """Return each finding with a course that is said to be there, with its extent."""
    return frozenset((name, extent) for extent, name in _EXTENT.findall(text))


def behind(text: str) -> Statements:
    """Return whether a consolidation behind the heart is said to be there, as one statement or none."""
    return frozenset({("behind", "")} if _BEHIND.search(text) else ())


def answers(text: str) -> Statements:
    """Return the answers to questions of indications."""
    return frozenset((found, "") for found in _ANSWERS.findall(text))


KINDS = {"changes": changes, "extents": extents, "behind": behind, "answers": answers}
"""Kinds of statements by name."""


def counts(found: Sequence[Statements], true: Sequence[Statements]) -> NDArray[np.float64]:
    """Count right, false and missed statements of N reports, ``[N, 3]``."""
    import numpy as np

    rows = [(len(one & other), len(one - other), len(other - one)) for one, other in zip(found, true, strict=True)]
    return np.array(rows, np.float64).reshape(len(rows), 3)


def best_guess(texts: Sequence[str]) -> Mapping[tuple[str, str], str | None]:
    """Return the most frequent change of each finding by its present extent, in true reports that have a prior.

    It is what can be said of changes without looking at a prior.

    Args:
        texts: the reports.

    Returns:
        (finding, extent) -> key of CHANGES, or None where most have no change.
    """
    from collections import Counter

    seen: dict[tuple[str, str], Counter[str | None]] = {}
    for text in texts:
        now, changed = dict(extents(text)), dict(changes(text))
        for slot in SLOTS:
            key = slot.name, now.get(slot.name, EXTENTS[0])
            seen.setdefault(key, Counter())[changed.get(slot.name)] += 1
    return {key: counted.most_common(1)[0][0] for key, counted in seen.items()}


def guessed(text: str, guesses: Mapping[tuple[str, str], str | None]) -> Statements:
    """Return the changes that are guessed for a report from the extents that it states."""
    now = dict(extents(text))
    keys = [(slot.name, now.get(slot.name, EXTENTS[0])) for slot in SLOTS]
    return frozenset((key[0], word) for key in keys if (word := guesses.get(key)))
