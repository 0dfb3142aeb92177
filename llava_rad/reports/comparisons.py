"""Sentences of a report that compare with an earlier study (:func:`metrics.comparisons.compares`)."""

from __future__ import annotations

from metrics.comparisons import compares


def comparing(text: str) -> list[str]:
    """Return the sentences of a text that compare."""
    from llava_rad.outputs.report import sentences  # pydantic, NumPy

    return [sentence for sentence in sentences(text) if compares(sentence)]


def without_comparisons(text: str) -> str:
    """Return a text without the sentences that compare; "" if none is left."""
    from llava_rad.outputs.report import sentences

    return " ".join(sentence for sentence in sentences(text) if not compares(sentence))
