"""Drafts, and pieces of a text as they are generated."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Draft:
    """A generated report.

    Attributes:
        text: the findings; an impression follows on a line of its own, under its heading.
        ids: token ids, without the end token; empty if another process or machine has them.
        complete: False if ``max_new_tokens`` cut the report off.
        unfamiliar: the image is unlike the training images (``llava_rad.model.familiarity``).
        notes: further warnings of the report.
    """

    text: str
    ids: tuple[int, ...]
    complete: bool
    unfamiliar: bool = False
    notes: tuple[str, ...] = ()


class Pieces:
    """Iterator over the pieces of a stream that keeps the draft, which the generator returns after the last piece."""

    draft: Draft

    def __init__(self, pieces: Generator[str, None, Draft]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        self.draft = yield from self._pieces
