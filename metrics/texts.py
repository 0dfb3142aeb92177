"""Pairs of texts, checked, and the tokenisers of the lexical metrics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from metrics.errors import InputError

R2GEN_TOKENS = 60  # where papers on IU X-ray cut their references

_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]+")

# mteval-v13a.pl, as sacrebleu's "13a" has it (Post 2018): every symbol apart; stops and commas apart unless between
# digits; a dash apart after a digit.
_13A = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_LIST_NUMBER = re.compile(r"(?:^|(?<=\s))\d\.\s")
_QUOTES = re.compile(r"[\"/\\']")
_PUNCTUATION = re.compile(r"[.,?;*!%^&_+():\-\[\]{}]")
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))


def checked_texts(texts: Sequence[Any], what: str = "texts") -> list[str]:
    """Return texts as a list.

    Raises:
        InputError: not a list of strings, or none at all.
    """
    if isinstance(texts, str) or not hasattr(texts, "__len__"):
        raise InputError(f"{what} must be a list of strings, not {type(texts).__name__}")
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise InputError(f"{what}: number {number} is {type(text).__name__}, not a string")
    if not len(texts):
        raise InputError(f"{what}: there are none")
    return list(texts)


def checked_pairs(candidates: Sequence[Any], references: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Return both lists of N texts.

    Raises:
        InputError: other lengths, not strings, or none at all. An empty string is a text: it scores 0.
    """
    pairs = checked_texts(candidates, "candidates"), checked_texts(references, "references")
    if len(pairs[0]) != len(pairs[1]):
        raise InputError(f"{len(pairs[0])} candidates and {len(pairs[1])} references: there must be one of each")
    return pairs


def rouge_tokens(text: str) -> list[str]:
    """Lower-cased runs of letters a-z and digits, as the package rouge_score takes them."""
    return _NOT_ALPHANUMERIC.sub(" ", text.lower()).split()


def tokens_13a(text: str) -> list[str]:
    """Tokens of mteval-v13a, as sacrebleu and the ``evaluate`` library take them for BLEU. Case is kept."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    if "&" in text:
        for entity, character in _ENTITIES:
            text = text.replace(entity, character)
    text = f" {text} "
    for pattern, replacement in _13A:
        text = pattern.sub(replacement, text)
    return text.split()


def r2gen_clean(text: str, max_tokens: int | None = None) -> str:
    """Text as the papers on IU X-ray score it: lower case, no punctuation, sentences joined by " . ".

    The cleaning of R2Gen (Chen et al. 2020), whose references are cut as well: at :data:`R2GEN_TOKENS` for IU X-ray.
    Together with ``rouge_l_coco`` and ``bleu_4_coco`` it gives the numbers that those papers compare.
    """
    text = _LIST_NUMBER.sub(" ", _QUOTES.sub("", text.lower()))
    sentences = (" ".join(_PUNCTUATION.sub("", part).split()) for part in text.split("."))
    joined = "".join(f"{sentence} . " for sentence in sentences if sentence).split()
    return " ".join(joined[:max_tokens])
