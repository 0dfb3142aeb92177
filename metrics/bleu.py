"""Corpus BLEU-1 to 4 (Papineni et al. 2002), which are not the means of sentence BLEU.

A few integers of each pair determine the score of any set of pairs: two lengths, and matches and numbers of n-grams.
The default equals sacrebleu's (``nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp``) and, where no count is zero, that of
the ``evaluate`` library.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from math import exp, sqrt
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from metrics.base import Metric, checked_pairs
from metrics.scores import Scores, mean_scores

if TYPE_CHECKING:
    from metrics.scores import Floats

Variant = Literal[
    "bleu_1", "bleu_2", "bleu_3", "bleu_4", "bleu_4_lower", "bleu_4_nosmooth", "bleu_1_coco", "bleu_2_coco",
    "bleu_3_coco", "bleu_4_coco",
]  # fmt: skip
Ngrams = list[Counter[tuple[str, ...]]]

# mteval-v13a.pl, as sacrebleu's "13a" has it (Post 2018): every symbol apart; stops and commas apart unless between
# digits; a dash apart after a digit.
_13A = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))


def bleu_4(candidates: Sequence[str], references: Sequence[str], *, variant: Variant = "bleu_4") -> Scores:
    """Score N pairs by corpus BLEU-4, or by BLEU with shorter n-grams only.

    Args:
        candidates: N generated texts.
        references: N texts.
        variant: ``bleu_4``, or ``bleu_1`` to ``bleu_3`` with shorter n-grams only; ``bleu_4_lower``, the same on
            lower-cased text; ``bleu_4_nosmooth``, the ``evaluate`` library's: 0 if an n-gram count is 0;
            ``bleu_4_coco``, and ``bleu_1_coco`` to ``bleu_3_coco``, those of COCO caption evaluation: whitespace
            tokens, case kept, tiny constants instead of zero counts.

    Returns:
        One score, named like the variant. The values of single reports are sentence BLEU with effective order;
        their mean is not the score.

    Raises:
        InputError: see :func:`metrics.base.checked_pairs`.
    """
    import numpy as np

    candidates, references = checked_pairs(candidates, references)
    order, kind = int(variant[5]), variant[6:]
    tokenise: Callable[[str], list[str]] = str.split if kind == "_coco" else tokens_13a
    counts = np.empty((len(candidates), 2 + 2 * order))
    known: dict[str, tuple[int, Ngrams]] = {}
    for row, pair in enumerate(zip(candidates, references, strict=True)):
        both = []
        for text in pair:
            if text not in known:
                tokens = tokenise(text.lower() if kind == "_lower" else text)
                known[text] = len(tokens), ngrams(tokens, order)
            both.append(known[text])
        (length, grams), (reference_length, reference_grams) = both
        counts[row] = [
            length,
            reference_length,
            *(sum((found & there).values()) for found, there in zip(grams, reference_grams, strict=True)),
            *(max(0, length - shorter) for shorter in range(order)),
        ]
    combine, sentence, choices = _VARIANTS[kind]
    return Scores(
        counts,
        lambda sums, _: {variant: combine(sums)},
        {variant: sentence(counts)},
        f"{variant}|{choices}|level:corpus|references:1",
    )


def tokens_13a(text: str) -> list[str]:
    """Return the tokens of mteval-v13a, as sacrebleu and the ``evaluate`` library use them for BLEU; case is kept."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    if "&" in text:
        for entity, character in _ENTITIES:
            text = text.replace(entity, character)
    text = f" {text} "
    for pattern, replacement in _13A:
        text = pattern.sub(replacement, text)
    return text.split()


def ngrams(tokens: Sequence[str], order: int) -> Ngrams:
    """Return the counts of n-grams for n = 1 to ``order``."""
    counts: Ngrams = []
    for n in range(1, order + 1):
        number = max(0, len(tokens) - n + 1)
        counts.append(Counter(zip(*(tokens[start : start + number] for start in range(n)), strict=True)))
    return counts


def _parts(sums: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Split sums into lengths of candidates and references ``[...]``, matches and totals ``[..., order]``."""
    order = (sums.shape[-1] - 2) // 2
    return sums[..., 0], sums[..., 1], sums[..., 2 : 2 + order], sums[..., 2 + order :]


def _brevity(length: Floats, reference: Floats) -> Floats:
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        penalty = np.exp(np.minimum(0.0, 1 - reference / length))
    floats: Floats = np.where(length > 0, penalty, 0.0)
    return floats


def _smoothed(sums: Floats, *, effective_order: bool = False) -> Floats:
    """BLEU with exponential smoothing (Chen & Cherry 2014, method 3): the k-th order without a match has 1 / 2^k."""
    import numpy as np

    length, reference, matches, totals = _parts(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        smoothing = 2.0 ** np.cumsum((matches == 0) & (totals > 0), axis=-1)
        logarithms = np.log(np.where(matches > 0, matches, 1 / smoothing) / totals)
    there = totals > 0
    orders = there.sum(axis=-1) if effective_order else np.full(length.shape, totals.shape[-1])
    mean = np.where(there, logarithms, 0.0 if effective_order else -np.inf).sum(axis=-1) / np.maximum(orders, 1)
    return np.where(matches.any(axis=-1), _brevity(length, reference) * np.exp(mean), 0.0)


def _sentence(sums: Floats) -> Floats:
    return _smoothed(sums, effective_order=True)


def _unsmoothed(sums: Floats) -> Floats:
    import numpy as np

    length, reference, matches, totals = _parts(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.log(matches / totals).mean(axis=-1)
    return np.where((matches > 0).all(axis=-1), _brevity(length, reference) * np.exp(mean), 0.0)


def _coco(sums: Floats) -> Floats:
    import numpy as np

    tiny, small = 1e-15, 1e-9
    length, reference, matches, totals = _parts(sums)
    ratio = (length + tiny) / (reference + small)
    geometric = np.prod((matches + tiny) / (totals + small), axis=-1) ** (1 / totals.shape[-1])
    floats: Floats = np.where(ratio < 1, geometric * np.exp(1 - 1 / np.minimum(ratio, 1.0)), geometric)
    return floats


_VARIANTS: dict[str, tuple[Callable[[Floats], Floats], Callable[[Floats], Floats], str]] = {
    "": (_smoothed, _sentence, "tokens:13a|case:mixed|smoothing:exp"),
    "_lower": (_smoothed, _sentence, "tokens:13a|case:lower|smoothing:exp"),
    "_nosmooth": (_unsmoothed, _unsmoothed, "tokens:13a|case:mixed|smoothing:none"),
    "_coco": (_coco, _coco, "tokens:whitespace|case:mixed|smoothing:tiny"),
}


def sentence_bleu_2(candidates: Sequence[str], references: Sequence[str]) -> Scores:
    """Score N pairs by sentence BLEU-2 as CXR-Report-Metric and ReXrank have it; the corpus score is the mean.

    Tokens are split at spaces after lower-casing and a space before each full stop; a zero count of n-grams becomes 0.1
    (Chen & Cherry 2014, method 1), except that no common word is 0. A text of one word has one bigram that is missing.

    Returns:
        ``bleu_2_sentence``.

    Raises:
        InputError: see :func:`metrics.base.checked_pairs`.
    """
    import numpy as np

    candidates, references = checked_pairs(candidates, references)
    values = []
    for pair in zip(candidates, references, strict=True):
        first, second = ([token for token in text.lower().replace(".", " .").split(" ") if token] for text in pair)
        counts = [
            sum((ours & theirs).values()) for ours, theirs in zip(ngrams(first, 2), ngrams(second, 2), strict=True)
        ]
        if not counts[0]:
            values.append(0.0)
            continue
        shares = [(count or 0.1) / max(1, len(first) - n) for n, count in enumerate(counts)]
        values.append(min(1.0, exp(1 - len(second) / len(first))) * sqrt(shares[0] * shares[1]))
    return mean_scores(
        {"bleu_2_sentence": np.array(values)},
        "bleu_2_sentence|tokens:space,stops apart|case:lower|smoothing:0.1|level:sentence|references:1|aggregate:mean",
    )


class SentenceBleu(Metric):
    """Mean of sentence BLEU-2 as a registered metric."""

    summary = "mean of sentence BLEU-2, as of CXR-Report-Metric and ReXrank"
    citation = "Yu, F. et al. Evaluating progress in automatic chest X-ray radiology report generation. 2023."
    titles: ClassVar = {"bleu_2_sentence": "BLEU-2 (mean of reports)"}

    def scores(self, candidates: Sequence[str], references: Sequence[str]) -> Scores:
        """Score N pairs; see :func:`sentence_bleu_2`."""
        return sentence_bleu_2(candidates, references)


class Bleu(Metric):
    """BLEU as a registered metric; the name of the row is the variant."""

    summary = "corpus BLEU"
    citation = "Papineni, K. et al. BLEU: a method for automatic evaluation of machine translation. 2002."
    titles: ClassVar = {
        "bleu_4_lower": "BLEU-4 (lower case)",
        "bleu_4_nosmooth": "BLEU-4 (not smoothed)",
        **{f"bleu_{order}": f"BLEU-{order}" for order in range(1, 5)},
        **{f"bleu_{order}_coco": f"BLEU-{order} (COCO)" for order in range(1, 5)},
    }

    def scores(self, candidates: Sequence[str], references: Sequence[str]) -> Scores:
        """Score N pairs; see :func:`bleu_4`."""
        return bleu_4(candidates, references, variant=cast(Variant, self.name))
