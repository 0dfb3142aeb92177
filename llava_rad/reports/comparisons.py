"""Sentences of a report that compare with an earlier study.

A model without the earlier image cannot know them, and learns to invent them. The words are those by which change is
reported (the approach of Ramesh et al. 2022, "Improving Radiology Report Generation Systems by Removing Hallucinated
References to Non-existent Priors", arXiv 2210.06340); the list is our own.
"""

from __future__ import annotations

import re
from typing import Final

_COMPARING: Final = re.compile(
    r"\b(?:"
    # the earlier study itself
    r"compar(?:ed?|ing|ison)\b(?! with normal)|(?:prior|previous|preceding|earlier|most recent|last)(?:ly)? "
    r"(?:\w+ ){0,3}?(?:study|studies|exam\w*|radiograph\w*|x-?ray\w*|film\w*|images?|imaging|cxr|ct|scans?|reports?)"
    r"|(?:the|from|to|than|on|with) (?:the )?(?:prior|previous)s?\b|previously"
    r"|since (?:the )?(?:prior|previous|last|___|\d)|as before|than before|interval(?:ly)?"
    # the course of a finding
    r"|unchanged|no (?:\w+ )?change|stable|stability|persist\w*|again|re-?demonstrated|remain(?:s|ed|ing)?"
    r"|similar (?:in|to)|new|newly|increas(?:e|es|ed|ing)|decreas(?:e|es|ed|ing)|improv(?:e|es|ed|ing|ement)"
    r"|wors(?:e|en|ens|ened|ening)|progress(?:ed|ing|ion|ive|ively)|resol(?:ve|ves|ved|ving|ution)"
    r"|regress(?:ed|ing|ion)|clear(?:ed|ing)|no longer|slightly (?:larger|smaller)|(?:larger|smaller|more prominent"
    r"|less prominent) (?:than|compared)"
    r"|(?:has|have) (?:\w+ )?(?:developed|enlarged|been (?:removed|placed|advanced|withdrawn|extubated))"
    r")\b",
    re.IGNORECASE,
)
# "increased interstitial markings", "stable chest" and the like describe; these state no course
_DESCRIBING: Final = re.compile(
    r"\b(?:(?:increased|decreased) (?:\w+ )?(?:markings?|density|densities|opacity|opacities|opacification|attenuation"
    r"|lucency|lucencies|ap diameter|lung volumes?|volumes?|size of the (?:cardiac|heart)|inspiration|penetration)"
    r"|again(?:st)? the|prior (?:\w+ )?(?:surgery|cabg|resection|sternotomy|fractures?|granulomatous|infection|trauma)"
    r"|new york|clear(?:ed)? lungs?|remain(?:ing|der)s? of)\b",
    re.IGNORECASE,
)


def compares(sentence: str) -> bool:
    """Tell whether a sentence says something that only an earlier study can show."""
    return _COMPARING.search(_DESCRIBING.sub(" ", sentence)) is not None


def comparing(text: str) -> list[str]:
    """Return the sentences of a text that compare."""
    from llava_rad.outputs.report import sentences

    return [sentence for sentence in sentences(text) if compares(sentence)]


def without_comparisons(text: str) -> str:
    """Return a text without the sentences that compare; "" if none is left."""
    from llava_rad.outputs.report import sentences

    return " ".join(sentence for sentence in sentences(text) if not compares(sentence))
