"""CIDEr-D (Vedantam et al. 2015), the consensus of n-grams weighted by their rarity among the references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import exp, log, sqrt
from typing import ClassVar

from metrics.base import Metric, checked_pairs
from metrics.bleu import Ngrams, ngrams
from metrics.scores import Scores, mean_scores

_ORDER = 4
_SIGMA = 6.0  # of the penalty of different lengths
_SCALE = 10.0


def cider(candidates: Sequence[str], references: Sequence[str]) -> Scores:
    """Score N pairs by CIDEr-D, equal to that of COCO caption evaluation with one reference.

    Tokens are split at white space, case kept. The document frequencies of n-grams are those of the N references, so
    that a report's value depends on the whole set; resamples and groups keep the frequencies of the whole set.

    Returns:
        ``cider``, between 0 and 10; 0 for a single pair, whose n-grams are all in every reference.

    Raises:
        InputError: see :func:`metrics.base.checked_pairs`.
    """
    import numpy as np

    candidates, references = checked_pairs(candidates, references)
    of_references = [ngrams(text.split(), _ORDER) for text in references]
    frequencies = Counter(gram for grams in of_references for counts in grams for gram in counts)
    weights = {gram: log(len(references) / number) for gram, number in frequencies.items()}
    values = [
        _similarity(ngrams(text.split(), _ORDER), there, weights, log(len(references)))
        for text, there in zip(candidates, of_references, strict=True)
    ]
    signature = "cider|variant:D|tokens:whitespace|case:mixed|n:1-4|sigma:6|scale:10|idf:references|aggregate:mean"
    return mean_scores({"cider": np.array(values)}, signature)


def _similarity(found: Ngrams, there: Ngrams, weights: dict[tuple[str, ...], float], unseen: float) -> float:
    """Return ten times the mean over n of the clipped cosine of two tf-idf vectors, less for different lengths."""
    total = 0.0
    for ours, theirs in zip(found, there, strict=True):
        vector = {gram: count * weights.get(gram, unseen) for gram, count in ours.items()}
        other = {gram: count * weights[gram] for gram, count in theirs.items()}
        norms = sqrt(sum(value * value for value in vector.values()) * sum(value * value for value in other.values()))
        if norms:
            total += sum(min(value, vector.get(gram, 0.0)) * value for gram, value in other.items()) / norms
    difference = sum(found[1].values()) - sum(there[1].values())  # COCO's code measures length in bigrams
    return _SCALE * exp(-(difference**2) / (2 * _SIGMA**2)) * total / _ORDER


class Cider(Metric):
    """CIDEr-D as a registered metric."""

    summary = "CIDEr-D of COCO caption evaluation, 0 to 10, mean over reports"
    citation = "Vedantam, R. et al. CIDEr: Consensus-based image description evaluation. 2015."
    titles: ClassVar = {"cider": "CIDEr"}

    def scores(self, candidates: Sequence[str], references: Sequence[str]) -> Scores:
        """Score N pairs; see :func:`cider`."""
        return cider(candidates, references)
