"""Pieces of a text as they are generated, and the draft that follows them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_rad.generation.decoding import Draft
    from llava_rad.generation.options import GenerationOptions
    from llava_rad.generation.vllm import VllmWriter


def whole(writer: VllmWriter, images: Sequence[Any], settings: GenerationOptions) -> Generator[str, None, Draft]:
    """A report of vLLM as one piece."""
    (draft,) = writer.generate(images, settings)
    yield draft.text
    return draft


class Pieces:
    """Iterator over the pieces of a stream that keeps the draft, which the generator returns after the last piece."""

    draft: Draft

    def __init__(self, pieces: Generator[str, None, Draft]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        self.draft = yield from self._pieces
