"""Statements that compare with an earlier study, and the metric that counts them where no earlier image was given.

A model without the earlier image cannot know them: it invents them (Ramesh et al. 2022, "Improving Radiology Report
Generation Systems by Removing Hallucinated References to Non-existent Priors", arXiv 2210.06340). Sentences are
recognised by words of change; the list is our own, measured in docs/metrics.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from metrics.base import InputError, Metric, checked_pairs
from metrics.rules.text import clean, sentences

if TYPE_CHECKING:
    from metrics.scores import Floats, Scores

_PICTURE: Final = (
    r"(?:study|studies|exam\w*|radiograph\w*|x-?rays?|films?|images?|imaging|cxr|ct|scans?|reports?|mri|pet)"
)
_SLIGHT: Final = (
    r"(?:(?:significant|appreciable|interval|definite|substantial|gross|obvious|major|convincing|new|apparent|further|"
    r"evident|detectable|radiographic|other) ){0,3}"
)
_ELSEWHERE: Final = r"(?:the )?(?:normal|expected|usual|typical|left|right|contralateral|opposite|other side|liver)"
_COMPARING: Final = re.compile(
    r"\b(?:"
    # the earlier study itself
    rf"compar(?:ed?|ing|ison)\b(?! (?:to|with) {_ELSEWHERE})"
    rf"|(?:prior|previous|preceding|earlier|most recent|last|old)(?:ly)? (?:\w+ ){{0,3}}?{_PICTURE}"
    r"|(?:from|to|than|on|with) (?:the )?(?:prior|previous)s?(?=\s*(?:[.,;)]|$))|previously"
    r"|since (?:the )?(?:prior|previous|last|___|\d)|as before|than before|interval(?:ly)?"
    # the course of a finding
    rf"|unchanged|(?:no|without(?: any)?) {_SLIGHT}changes?(?! of)|not {_SLIGHT}(?:significantly )?changed"
    r"|stable|stability|persist\w*|again|re-?demonstrated|remain(?:s|ed|ing)?|continued|continues"
    r"|similar (?:in|to)|^similar|new|newly|increas(?:e|es|ed|ing)|decreas(?:e|es|ed|ing)"
    r"|improv(?:e|es|ed|ing|ement)|wors(?:e|en|ens|ened|ening)|progress(?:ed|ing|ion|ive|ively)"
    r"|resol(?:ve|ves|ved|ving|ution)|regress(?:ed|ing|ion)|clear(?:ed|ing)|no longer|slightly (?:larger|smaller)"
    rf"|(?:larger|smaller|more prominent|less prominent) (?:than|compared)(?! (?:to |with )?{_ELSEWHERE})"
    r"|(?:has|have) (?:\w+ )?(?:developed|enlarged|been (?:removed|placed|advanced|withdrawn|extubated))"
    r"|(?:has|have) been (?:\w+ ){0,2}?(?:development|removal|placement|advancement|resolution|clearing|enlargement)"
    r")\b",
    re.IGNORECASE,
)
_QUANTITIES: Final = (
    r"(?:markings?|density|densities|opacity|opacities|opacification|attenuation|lucency|lucencies|ap diameter"
    r"|anteroposterior diameter|lung volumes?|volumes?|size of the (?:cardiac|heart)|inspiration|penetration"
    r"|calcifications?|vasculature|vascularity|kyphosis|aeration|conspicuity)"
)
# these words describe what is seen or done, state no course, or ask for a later study
_DESCRIBING: Final = re.compile(
    rf"\b(?:(?:increased|decreased) (?:\w+ ){{0,2}}{_QUANTITIES}"
    rf"|{_QUANTITIES} (?:is|are|appears?) (?:\w+ )?(?:increased|decreased)"
    r"|again(?:st)? the|(?:prior|previous) (?:\w+ ){0,2}(?:surgery|cabg|bypass|resection|sternotomy|fractures?"
    r"|granulomatous|infections?|trauma|thoracotomy|inflammation|histoplasmosis|tuberculosis)"
    r"|new york|clear(?:ed)? lungs?|remain(?:ing|der)s? (?:of|lungs?|bony|osseous)"
    r"|(?:to|until|for|ensure|document|confirm|assess|evaluate) (?:\w+ ){0,4}?(?:clearing|resolution|stability"
    r"|improvement|progression)|(?:\w+ )?interval (?:film|follow|radiograph|ct|x-?ray|chest|imaging|exam)\w*"
    rf"|(?:correlat\w+|compar\w+) (?:with|to) (?:\w+ ){{0,3}}?{_PICTURE} (?:\w+ ){{0,2}}?(?:would|may|is|are|if|could)"
    r"|high(?:er)?[ -]resolution|if (?:\w+ ){0,4}?(?:persists?|worsens?)|for comparison)\b",
    re.IGNORECASE,
)


def compares(sentence: str) -> bool:
    """Tell whether a sentence says something that only an earlier study can show."""
    return _COMPARING.search(_DESCRIBING.sub(" ", sentence.strip())) is not None


def counted(text: str) -> tuple[int, int]:
    """Count the sentences of a text, whatever its line breaks, and those of them that compare."""
    text = clean(text).text
    found = [" ".join(part.split()) for start, end in sentences(text) if any(map(str.isalpha, part := text[start:end]))]
    return len(found), sum(map(compares, found))


GIVEN, NOT_GIVEN = "yes", "no"
"""Values of the column "prior" of a context: an earlier image of the patient was given, or was not; "" is unknown."""


def prior_claims(candidates: Sequence[str], references: Sequence[str], prior: Sequence[str]) -> Scores:
    """Count comparisons with an earlier study in N generated reports, where none was given.

    Args:
        candidates: N generated texts.
        references: N texts, which are counted for comparison.
        prior: for each report :data:`GIVEN`, :data:`NOT_GIVEN`, or "" if it is not known.

    Returns:
        Over the reports that were written without an earlier study: ``prior_claims``, the share that compares,
        ``prior_claims_sentences``, the share of their sentences, and ``prior_claims_references``, the share of their
        references that compares. Not defined if there is no such report.

    Raises:
        InputError: see :func:`metrics.base.checked_pairs`; or if ``prior`` has another length.
    """
    import numpy as np

    from metrics.scores import Scores

    candidates, references = checked_pairs(candidates, references)
    if len(prior) != len(candidates):
        raise InputError(f"{len(prior)} values of prior for {len(candidates)} reports: there must be one of each")
    without = np.array([one == NOT_GIVEN for one in prior], np.float64)
    counts = {text: counted(text) for text in dict.fromkeys((*candidates, *references))}
    ours = np.array([counts[text] for text in candidates], np.float64)
    theirs = np.array([counts[text][1] for text in references], np.float64)
    statistics = np.stack([np.ones(len(ours)), ours[:, 1] > 0, theirs > 0, ours[:, 0], ours[:, 1]], axis=1)
    statistics *= without[:, None]

    def of_sums(sums: Floats, numbers: Floats) -> dict[str, Floats]:
        reports, claiming, reference, all_sentences, comparing = np.moveaxis(sums, -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "prior_claims": claiming / reports,
                "prior_claims_sentences": comparing / all_sentences,
                "prior_claims_references": reference / reports,
            }

    per_sample = {"prior_claims": np.where(without > 0, ours[:, 1], np.nan)}
    costs = frozenset(("prior_claims", "prior_claims_sentences"))
    return Scores(statistics, of_sums, per_sample, "prior_claims|words:2|of:reports-without-prior", costs=costs)


def without_prior(scores: Scores) -> int:
    """Return the number of reports that the scores of :func:`prior_claims` are of."""
    return int(scores.statistics[:, 0].sum())


class PriorClaims(Metric):
    """Comparisons with an earlier study that was not given, as a registered metric."""

    summary = "reports, and sentences, that compare with an earlier study although none was given; needs no weights"
    citation = "Ramesh et al. 2022, arXiv 2210.06340"
    titles: ClassVar[Mapping[str, str]] = {
        "prior_claims": "Comparing without a prior (reports)",
        "prior_claims_sentences": "Comparing without a prior (sentences)",
        "prior_claims_references": "Comparing without a prior (references)",
    }
    context: ClassVar[tuple[str, ...]] = ("prior",)

    def scores(self, candidates: Sequence[str], references: Sequence[str]) -> Scores:
        """Score N pairs of which it is not known if a prior was given: nothing is counted."""
        return prior_claims(candidates, references, [""] * len(candidates))

    def scores_in_context(
        self, candidates: Sequence[str], references: Sequence[str], context: Mapping[str, Sequence[str]]
    ) -> Scores:
        """Score N pairs; see :func:`prior_claims`."""
        return prior_claims(candidates, references, context.get("prior") or [""] * len(candidates))
