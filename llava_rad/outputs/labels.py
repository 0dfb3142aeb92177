"""The fourteen CheXpert findings that a report names, by the labeler ``rules``: a phrase labeler, not CheXbert."""

from __future__ import annotations

from typing import Final

from metrics.labels import BLANK, CLASSES, NEGATIVE, POSITIVE, UNCERTAIN
from metrics.rules.labeler import label

FINDINGS: Final = CLASSES
_SAID: Final = {BLANK: "not mentioned", POSITIVE: "positive", NEGATIVE: "negative", UNCERTAIN: "uncertain"}


def labels_of(text: str) -> dict[str, str]:
    """What a text says of each finding: positive, negative, uncertain or not mentioned.

    No text says nothing, not even "No Finding", which the labeler gives to a report that names none.
    """
    codes = label(text) if text.strip() else [BLANK] * len(FINDINGS)
    return {finding: _SAID[code] for finding, code in zip(FINDINGS, codes, strict=True)}
