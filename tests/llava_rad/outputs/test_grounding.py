"""Boxes parsed from hand-written outputs, and placed on images by hand calculation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.preprocessing import RECIPES
from encoder.reader.radiograph import ImageFacts
from llava_rad.outputs.grounding import MALFORMED, NOT_SQUARE, Box, Grounded, Phrase, on_image, parse, placed

pytestmark = pytest.mark.acceptance(row=23)

ONE = "<box><x55><y45><x70><y56></box>"
RECIPE = RECIPES["maira-2"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("No effusion.", (Phrase("No effusion."),)),
        ("<obj>No effusion.</obj>", (Phrase("No effusion."),)),
        (
            f"<obj> Opacity at the left base. {ONE}</obj><obj> No effusion.</obj>",
            (Phrase("Opacity at the left base.", (Box(0.555, 0.455, 0.705, 0.565),)), Phrase("No effusion.")),
        ),
        (
            "<obj>Two.<box><x0><y0><x0><y0></box> <box><x99><y9><x99><y99></box></obj> Rest.",
            (Phrase("Two.", (Box(0.005, 0.005, 0.005, 0.005), Box(0.995, 0.095, 0.995, 0.995))), Phrase("Rest.")),
        ),
    ],
)
def test_well_formed(text: str, expected: tuple[Phrase, ...]) -> None:
    assert parse(text) == Grounded(expected)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("<obj>A.<box><x70><y45><x55><y56></box></obj>", (Phrase("A."),)),  # right of its own right side
        ("<obj>A.<box><x100><y45><x100><y56></box></obj>", (Phrase("A."),)),  # no such bin
        (f"<obj>A.{ONE}<box><x1><y1><x2></box></obj>", (Phrase("A."),)),  # three corners
        (f"<obj>A.{ONE} and more</obj>", (Phrase("A. and more"),)),  # words behind a box
        ("<obj>A.<box><y1><x1><y2><x2></box></obj>", (Phrase("A."),)),  # in another order
        (f"<obj>A. {ONE}", (Phrase("A."),)),  # cut off
        (f"A.</obj><obj>B.{ONE}</obj>", (Phrase("A."), Phrase("B.", (Box(0.555, 0.455, 0.705, 0.565),)))),
        (f"<obj>A.<obj>B.{ONE}</obj></obj>", (Phrase("A. B."),)),  # one in another
        (ONE, ()),
    ],
)  # fmt: skip
def test_malformed_keeps_the_words(text: str, phrases: tuple[Phrase, ...]) -> None:
    assert parse(text) == Grounded(phrases, malformed=True)


@given(
    st.lists(st.sampled_from(["<obj>", "</obj>", "<box>", "</box>", "<x1>", "<y2>", "<x300>", "a", " b."]), max_size=14)
)
def test_no_word_is_lost_and_no_tag_is_left(pieces: list[str]) -> None:
    found = parse("".join(pieces))
    assert "".join(found.text.split()) == "".join("".join(p for p in pieces if "<" not in p).split())
    assert all(0 <= share <= 1 for phrase in found.phrases for box in phrase.boxes for share in vars(box).values())


def test_boxes_on_an_upright_image_by_hand() -> None:
    """2000 x 2500 pixels: 518 x 647 after scaling (647.5 cut), 64 rows cut off above; 518 of 647 rows are seen."""
    found = on_image(Box(0.1, 0.0, 0.9, 1.0), RECIPE, height=2500, width=2000)
    assert (found.x_min, found.x_max) == pytest.approx((0.1, 0.9))
    assert (found.y_min, found.y_max) == pytest.approx((64 / 647, (64 + 518) / 647))
    lying = on_image(Box(0.0, 0.25, 0.5, 1.0), RECIPE, height=2000, width=2500)
    assert (lying.x_min, lying.x_max) == pytest.approx((64 / 647, (64 + 259) / 647))
    assert (lying.y_min, lying.y_max) == pytest.approx((0.25, 1.0))


def test_a_bright_square_is_found_where_its_box_says() -> None:
    """The position of a mark in the recipe's square is converted back to its position in the image."""
    image = np.zeros((1200, 900), np.uint8)
    image[500:700, 600:750] = 255
    square = RECIPE.apply(image, from_dicom=False) > 127
    rows, columns = np.flatnonzero(square.any(1)), np.flatnonzero(square.any(0))
    box = Box(columns[0] / 518, rows[0] / 518, (columns[-1] + 1) / 518, (rows[-1] + 1) / 518)
    found = on_image(box, RECIPE, 1200, 900)
    assert vars(found) == pytest.approx(
        {"x_min": 600 / 900, "y_min": 500 / 1200, "x_max": 750 / 900, "y_max": 700 / 1200}, abs=2e-3
    )


def test_turned_images_and_warnings() -> None:
    text = parse(f"<obj>A.{ONE}</obj><obj>B.<box></obj>")
    upright, warnings = placed(text, RECIPE, ImageFacts("dicom", rows=2000, columns=2500, rotated=90))
    assert upright.phrases[0].boxes == (on_image(text.phrases[0].boxes[0], RECIPE, 2500, 2000),)
    assert warnings == [MALFORMED]
    none, warnings = placed(parse(f"<obj>A.{ONE}</obj>"), RECIPE, ImageFacts("dicom", 20, 25, resampled=True))
    assert (none.phrases, warnings) == ((Phrase("A."),), [NOT_SQUARE])
