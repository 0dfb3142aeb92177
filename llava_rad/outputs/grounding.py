"""Parsing of MAIRA-2's grounded text into phrases with boxes, and their position on the image.

A grounded report is a sequence of ``<obj>phrase<box><x10><y20><x30><y40></box></obj>``: left, top, right and bottom,
each one of 100 bins of the model's square input; a phrase has any number of boxes. A bin stands for its centre
(microsoft/maira-2: model card, and processing_maira2.py as mirrored in johannes2moll/maira_rrg).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from encoder.preprocessing import Recipe
    from encoder.reader.radiograph import ImageFacts

BINS: Final = 100
TAGS: Final = frozenset(
    {"<obj>", "</obj>", "<box>", "</box>", *(f"<{axis}{number}>" for axis in "xy" for number in range(BINS))}
)
"""Special tokens of grounded reports."""
MALFORMED: Final = "some boxes of the model were malformed and are left out"
NOT_SQUARE: Final = "the boxes are left out: the image's pixels are not square"
_TAG = re.compile(r"</?(?:obj|box)>|<[xy]\d+>")
_PHRASE = re.compile(r"<obj>(.*?)</obj>", re.DOTALL)
_BOX = re.compile(r"\s*<box>\s*<x(\d{1,3})>\s*<y(\d{1,3})>\s*<x(\d{1,3})>\s*<y(\d{1,3})>\s*</box>\s*")


@dataclass(frozen=True)
class Box:
    """Rectangle in fractions of an image's width (x) and height (y), from its upper left corner."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float


@dataclass(frozen=True)
class Phrase:
    """One finding with its boxes; there may be none."""

    text: str
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Grounded:
    """A grounded report.

    Attributes:
        phrases: in order.
        malformed: a box or phrase could not be parsed; its words are kept.
    """

    phrases: tuple[Phrase, ...]
    malformed: bool = False

    @property
    def text(self) -> str:
        """The report without its boxes."""
        return " ".join(phrase.text for phrase in self.phrases)


def parse(text: str) -> Grounded:
    """Parse a grounded report. Malformed parts lose their boxes, never their words.

    Returns:
        Phrases with boxes in fractions of the model's square input.
    """
    phrases: list[Phrase] = []
    malformed, end = False, 0
    for match in _PHRASE.finditer(text):
        malformed |= _plain(text[end : match.start()], phrases)
        malformed |= _phrase(match[1], phrases)
        end = match.end()
    malformed |= _plain(text[end:], phrases)
    return Grounded(tuple(phrases), malformed)


def _plain(text: str, phrases: list[Phrase]) -> bool:
    """Append the words outside a phrase; return True if there are tags among them."""
    words = " ".join(_TAG.sub(" ", text).split())
    if words:
        phrases.append(Phrase(words))
    return _TAG.search(text) is not None


def _phrase(inner: str, phrases: list[Phrase]) -> bool:
    words, found, rest = inner.partition("<box>")
    if _TAG.search(words):
        return _plain(inner, phrases)
    boxes: list[Box] = []
    malformed, at, rest = False, 0, found + rest
    while at < len(rest):
        match = _BOX.match(rest, at)
        if match is None:
            # words after a malformed box still belong to the phrase
            words, boxes, malformed = f"{words} {_TAG.sub(' ', rest[at:])}", [], True
            break
        corners = [int(number) for number in match.groups()]
        if max(corners) >= BINS or corners[0] > corners[2] or corners[1] > corners[3]:
            malformed = True
        else:
            boxes.append(Box(*((corner + 0.5) / BINS for corner in corners)))
        at = match.end()
    words = " ".join(words.split())
    if words or boxes:
        phrases.append(Phrase(words, tuple(boxes)))
    return malformed


def on_image(box: Box, recipe: Recipe, height: int, width: int) -> Box:
    """Convert a box of the model's square input to fractions of the upright image.

    Args:
        box: as ``parse`` returns it.
        recipe: scales the shortest side and crops the centre.
        height: of the upright image in pixels.
        width: of the upright image in pixels.

    Raises:
        ValueError: if the recipe pads instead of cropping.
    """
    if recipe.pad_to is not None:
        raise ValueError("the recipe pads")
    if recipe.whole:
        return box
    long = int(recipe.side * max(height, width) / min(height, width))  # as encoder.resampling.resize rounds
    scaled = {"x": recipe.side if width <= height else long, "y": long if width <= height else recipe.side}

    def undo(share: float, length: int) -> float:
        gap = length - recipe.size
        start = gap // 2 if recipe.margin == "floor" else round(gap / 2)
        return min(1.0, max(0.0, (start + share * recipe.size) / length))

    return Box(
        undo(box.x_min, scaled["x"]), undo(box.y_min, scaled["y"]),
        undo(box.x_max, scaled["x"]), undo(box.y_max, scaled["y"]),
    )  # fmt: skip


def placed(grounded: Grounded, recipe: Recipe, facts: ImageFacts) -> tuple[Grounded, list[str]]:
    """Convert the boxes of a grounded report to the upright image; return also warnings about omitted boxes."""
    warnings = [MALFORMED] if grounded.malformed else []
    height, width = (facts.columns, facts.rows) if facts.rotated % 180 else (facts.rows, facts.columns)
    if facts.resampled or recipe.pad_to is not None:
        if any(phrase.boxes for phrase in grounded.phrases):
            warnings.append(NOT_SQUARE)
        return Grounded(tuple(Phrase(phrase.text) for phrase in grounded.phrases), grounded.malformed), warnings
    phrases = tuple(
        Phrase(phrase.text, tuple(on_image(box, recipe, height, width) for box in phrase.boxes))
        for phrase in grounded.phrases
    )
    return Grounded(phrases, grounded.malformed), warnings


def in_file(
    x: float, y: float, *, rows: int, columns: int, rotated: int = 0, mirrored: bool = False
) -> tuple[float, float]:
    """Convert a place on the upright image to pixels of its file: before resampling, mirroring and rotation.

    Args:
        x: share of the upright image's width.
        y: share of its height.
        rows: stored height in pixels.
        columns: stored width in pixels.
        rotated: degrees of clockwise rotation by the reader.
        mirrored: left and right were exchanged after it.

    Returns:
        Column and row; 0, 0 is the outer corner of the first pixel (DICOM PS3.3 C.18.6).
    """
    quarters = rotated // 90
    height, width = (columns, rows) if quarters % 2 else (rows, columns)
    x, y = x * width, y * height
    if mirrored:
        x = width - x
    x, y = {0: (x, y), 1: (y, width - x), 2: (width - x, height - y), 3: (height - y, x)}[quarters]
    return round(x, 3), round(y, 3)
