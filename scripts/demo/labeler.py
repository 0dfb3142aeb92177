"""A small rule-based labeler: findings text -> NIH's 14 labels. It measures the demonstration, nothing else.

Phrases of general radiology prose and NegEx-like scopes (Chapman et al. 2001), not the grammar's own sentences: a
cue of denial covers what follows it up to the end of its clause, a few cues cover what stands before them.
"""

from __future__ import annotations

import re

from scripts.demo.nih import LABELS, NO_FINDING

_PHRASES: dict[str, str] = {
    "Atelectasis": r"atelecta\w+|volume loss|collapse[ds]?\b",
    "Cardiomegaly": (
        r"cardiomegaly|(?:heart|cardiac|cardiomediastinal)[\w ]{0,25}\b(?:enlarged|increased|enlargement|prominent)"
        r"|(?:enlarged|large|prominent|enlargement of the) (?:heart|cardi\w+)"
    ),
    "Effusion": r"effusions?\b|pleural fluid|blunt\w+ of (?:the )?[\w ]*costophrenic",
    "Infiltration": r"infiltrat\w+",
    "Mass": r"\bmass(?:es)?\b(?! effect)|mass-like",
    "Nodule": r"nodul\w+",
    "Pneumonia": r"pneumoni\w+",
    "Pneumothorax": r"pneumothora\w+",
    "Consolidation": r"consolidat\w+",
    "Edema": r"o?edema|vascular congestion",
    "Emphysema": r"emphysem\w+|bullous",
    "Fibrosis": r"fibro\w+|interstitial scarring",
    "Pleural_Thickening": r"pleura[\w ]{0,15}thicken\w+|thicken\w+ of the [\w ]*pleura",
    "Hernia": r"herni\w+",
}
_FINDINGS = {label: re.compile(pattern) for label, pattern in _PHRASES.items()}

_DENIAL_BEFORE = re.compile(
    r"\b(?:no|not|without|neither|nor|never|free of|free from|clear of|absence of|negative for|lack of|rather than)\b"
)
_DENIAL_AFTER = re.compile(
    r"^[\w ,]{0,40}?(?:\b(?:is|are|was|were|has|have|been)\s+(?:absent|excluded|resolved|cleared|not\b|ruled out)"
    r"|: (?:none|absent|no)\b)"
)
# A denial does not reach past these words: "no effusion but consolidation", "no mass, there is atelectasis".
_BREAK = re.compile(
    r"\b(?:but|however|although|though|there (?:is|are)|which|apart from|except|other than)\b|;"
    r"|:(?! (?:none|absent|no)\b)"
)
_WITH = re.compile(r"\bwith\b(?!in)")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def label_text(text: str) -> frozenset[str]:
    """The findings that a paragraph affirms.

    Args:
        text: Findings in English prose.

    Returns:
        A subset of `LABELS`; empty where the text affirms none of them ("No Finding").
    """
    found: set[str] = set()
    for sentence in _SENTENCE.split(text.lower()):
        for label, phrase in _FINDINGS.items():
            if label not in found and any(not _is_denied(sentence, match) for match in phrase.finditer(sentence)):
                found.add(label)
    return frozenset(found)


def _is_denied(sentence: str, match: re.Match[str]) -> bool:
    """Whether the mention stands in the scope of a denial."""
    # "heart ... not ... enlarged": the denial can stand within the phrase itself.
    if _DENIAL_BEFORE.search(match[0]):
        return True
    before = sentence[: match.start()]
    breaks = [m.end() for m in _BREAK.finditer(before)] + [m.end() for m in _WITH.finditer(before)]
    clause = before[max(breaks, default=0) :]
    if _DENIAL_BEFORE.search(clause):
        return True
    after = sentence[match.end() :]
    stop = re.search(r"\bbut\b|;|\bwith\b", after)
    return _DENIAL_AFTER.match(after[: stop.start()] if stop else after) is not None


def as_row(labels: frozenset[str]) -> list[int]:
    """0/1 in the order of `LABELS`, then `No Finding` (1 where nothing else is)."""
    return [int(label in labels) for label in LABELS] + [int(not labels)]


ROW_NAMES = (*LABELS, NO_FINDING)
"""What the columns of `as_row` stand for."""
