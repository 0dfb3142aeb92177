"""ROUGE-L (Lin 2004): F-measure of the longest common subsequence of tokens, mean over reports.

The default equals the package ``rouge_score`` without stemmer. The stemmed form and the one of COCO caption evaluation
are other metrics under other names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import ClassVar, Literal, cast

from metrics.base import Metric, checked_pairs
from metrics.scores import Scores, mean_scores

Variant = Literal["rouge_l", "rouge_l_stem", "rouge_l_coco"]
_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]+")
_BETA = 1.2  # COCO caption evaluation: recall weighs more


def rouge_l(candidates: Sequence[str], references: Sequence[str], *, variant: Variant = "rouge_l") -> Scores:
    """Score N pairs by ROUGE-L.

    Args:
        candidates: N generated texts.
        references: N texts.
        variant: ``rouge_l``; ``rouge_l_stem`` with the Porter stemmer (needs nltk); ``rouge_l_coco``: whitespace
            tokens, case kept, F with beta 1.2, as in the papers of the R2Gen family.

    Returns:
        One score, named like the variant. A pair with an empty text scores 0.

    Raises:
        InputError: see :func:`metrics.base.checked_pairs`.
    """
    import numpy as np

    candidates, references = checked_pairs(candidates, references)
    tokenise, beta, choices = _VARIANTS[variant]
    values = np.array(
        [
            _f_measure(tokenise(candidate), tokenise(reference), beta) if candidate and reference else 0.0
            for candidate, reference in zip(candidates, references, strict=True)
        ]
    )
    return mean_scores({variant: values}, f"{variant}|{choices}|aggregate:mean")


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, by bits of one integer (Crochemore 2001; Hyyrö 2004)."""
    masks: dict[str, int] = {}
    for position, token in enumerate(first):
        masks[token] = masks.get(token, 0) | 1 << position
    row = (1 << len(first)) - 1
    for token in second:
        if mask := masks.get(token):
            matches = row & mask
            row = (row + matches) | (row - matches)
    return len(first) - (row & (1 << len(first)) - 1).bit_count()


def _f_measure(candidate: Sequence[str], reference: Sequence[str], beta: float | None) -> float:
    common = lcs_length(candidate, reference)
    if not common:
        return 0.0
    precision, recall = common / len(candidate), common / len(reference)
    if beta is None:
        return 2 * precision * recall / (precision + recall)
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def rouge_tokens(text: str) -> list[str]:
    """Return lower-cased runs of the letters a-z and digits, the tokens of the package rouge_score."""
    return _NOT_ALPHANUMERIC.sub(" ", text.lower()).split()


def _spaces(text: str) -> list[str]:
    return text.split(" ")


@lru_cache(maxsize=1)
def _stemmer() -> Callable[[str], str]:
    from nltk.stem.porter import PorterStemmer

    return lru_cache(maxsize=100_000)(PorterStemmer().stem)


def _stems(text: str) -> list[str]:
    stem = _stemmer()
    return [stem(token) if len(token) > 3 else token for token in rouge_tokens(text)]


_VARIANTS: dict[str, tuple[Callable[[str], list[str]], float | None, str]] = {
    "rouge_l": (rouge_tokens, None, "tokens:a-z0-9|case:lower|stemmer:no|f:beta1"),
    "rouge_l_stem": (_stems, None, "tokens:a-z0-9|case:lower|stemmer:porter|f:beta1"),
    "rouge_l_coco": (_spaces, _BETA, "tokens:whitespace|case:mixed|stemmer:no|f:beta1.2"),
}


class RougeL(Metric):
    """ROUGE-L as a registered metric; the name of the row is the variant."""

    summary = "ROUGE-L F-measure of the longest common subsequence, mean over reports"
    citation = "Lin, C.-Y. ROUGE: A package for automatic evaluation of summaries. 2004."
    titles: ClassVar = {
        "rouge_l": "ROUGE-L",
        "rouge_l_stem": "ROUGE-L (stemmed)",
        "rouge_l_coco": "ROUGE-L (COCO)",
    }

    def scores(self, candidates: Sequence[str], references: Sequence[str]) -> Scores:
        """Score N pairs; see :func:`rouge_l`."""
        return rouge_l(candidates, references, variant=cast(Variant, self.name))
