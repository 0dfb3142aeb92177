"""Words for sex, age, race, splits and labels; right values by hand, from the paper (C.6) and MIMIC-IV's list."""

from __future__ import annotations

import pytest

from encoder.datasets.values import (
    age_of,
    ethnicity_of,
    is_no_answer,
    is_nothing,
    label_of,
    labels_of,
    measure_of,
    sex_of,
    split_of,
    years_of,
)
from encoder.errors import LlavaRadError

WHITE, ASIAN, BLACK, HISPANIC, NATIVE, OTHER = (
    "white", "asian", "black/african american", "hispanic/latino", "american indian/alaska native", "other",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("45", 45), ("045Y", 45), ("090Y", 90), ("54.0", 54), ("54,5", 54.5), ("6M", 0.5),
        ("018M", 1.5), ("400D", 1.095),
        ("012W", 0.23), ("90+", 90), (">89", 90), ("> 89", 90), (">=90", 90), ("over 89", 90), ("45 years", 45),
        ("45 yrs", 45), ("45 y/o", 45), ("3 months old", 0.25), ("0", 0), ("120", 120), (" 077Y ", 77),
        ("411", None), ("411Y", None), ("121", None), ("-1", None), ("20-30", None), ("old", None), ("", None),
        ("nan", None), ("1e1", None), ("4 5", None), ("Y045", None),
    ],
)  # fmt: skip
def test_ages(text: str, years: float | None) -> None:
    assert years_of(text) == (None if years is None else pytest.approx(years, abs=0.005))
    assert age_of(text) == ("" if years is None else str(int(years)))


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("WHITE - RUSSIAN", WHITE), ("WHITE - OTHER EUROPEAN", WHITE), ("Caucasian", WHITE), ("W", WHITE),
        ("White, non-Hispanic", WHITE), ("White, Not Hispanic or Latino", WHITE), ("white_not_hispanic", WHITE),
        ("ASIAN - ASIAN INDIAN", ASIAN), ("ASIAN - SOUTH EAST ASIAN", ASIAN), ("Korean", ASIAN),
        ("BLACK/CAPE VERDEAN", BLACK), ("BLACK/AFRICAN", BLACK), ("African-American", BLACK),
        ("Non-Hispanic Black", BLACK),
        ("HISPANIC/LATINO - PUERTO RICAN", HISPANIC), ("HISPANIC OR LATINO", HISPANIC), ("Latina", HISPANIC),
        ("White, Hispanic", HISPANIC), ("Hispanic_Latino", HISPANIC),
        ("AMERICAN INDIAN/ALASKA NATIVE", NATIVE), ("Native American", NATIVE),
        ("OTHER", OTHER), ("PORTUGUESE", OTHER), ("SOUTH AMERICAN", OTHER), ("MULTIPLE RACE/ETHNICITY", OTHER),
        ("NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER", OTHER), ("white / black", OTHER),
        ("Blanca", WHITE), ("branco", WHITE), ("Noir", BLACK), ("Black, non-white", BLACK),
        ("Non-white", ""), ("not white", ""), ("nonwhite", ""),
        ("UNKNOWN", ""), ("UNKNOWN/NOT SPECIFIED", ""), ("UNABLE TO OBTAIN", ""), ("PATIENT DECLINED TO ANSWER", ""),
        ("Declined", ""), ("Prefer not to say", ""), ("not reported", ""), ("Not Hispanic or Latino", ""),
        ("not of Hispanic origin", ""), ("Refused", ""), ("3", ""), ("", ""), ("nan", ""), ("___", ""), ("-", ""),
    ],
)  # fmt: skip
def test_ethnicities_are_the_papers_six_groups(text: str, group: str) -> None:
    assert ethnicity_of(text) == group


@pytest.mark.parametrize(
    ("text", "answered"),
    [
        ("", False), ("nan", False), ("?", False), ("Unknown", False), ("UNKNOWN/NOT SPECIFIED", False),
        ("Patient declined to answer", False), ("refused", False), ("UNABLE TO OBTAIN", False),
        ("unknown or not reported", False), ("Prefer not to say", False), ("don't know", False), ("n/a", False),
        ("Medicare", True), ("not smoking", True), ("No", True), ("normal", True),
        ("declined/private", True), ("unknown primary", True), ("no information desk", True), ("Other", True),
    ],
)  # fmt: skip
def test_a_whole_cell_without_an_answer_is_told_from_an_answer_with_such_a_word(text: str, answered: bool) -> None:
    assert is_no_answer(text) is not answered


def test_sexes_splits_and_measures() -> None:
    words = ("F", "Female", " f ", "woman", "M", "male", "m.", "O", "other", "unknown", "", "1")
    assert [sex_of(word) for word in words] == ["F"] * 4 + ["M"] * 3 + [""] * 5
    words = (
        "training",
        "Training set",
        "TRAIN",
        "valid",
        "validation",
        "dev",
        "test",
        "Testing",
        "test_split",
        "both",
        "",
    )
    assert [split_of(word) for word in words] == ["train"] * 3 + ["val"] * 3 + ["test"] * 3 + ["", ""]
    assert [measure_of(word) for word in ("70", "70,5", "70.5", "0", "-3", "70 kg", "nan")] == [
        "70",
        "70.5",
        "70.5",
    ] + [""] * 4


def test_words_for_nothing() -> None:
    for word in ("", " ", "nan", "NaN", "None", "null", "N/A", "NA", "<NA>", "___", "-", ".", "." * 150, "\n"):
        assert is_nothing(word), word
    for word in (
        "n.a.",
        "N / A",
        "None.",
        "(none)",
        "[nan]",
        "#NULL!",
        "not available",
        "Not applicable",
        "&nbsp;",
        "XXXX",
        "XXXX, XXXX.",
        "XXXX XXXX XXXX XXXX XXXX.",
        "[REDACTED]",
        "<unk> <pad>",
        "[PAD] [PAD] [PAD] [PAD]",
        "<|endoftext|>",
        "nan nan nan nan nan nan",
    ):
        assert is_nothing(word), word
    for word in (
        "0",
        "no",
        "a.",
        "Normal",
        "X",
        "XX",
        "胸",
        "XXXX pain",
        "XXXX XXXX XXXX XXXX pain",
        "Clear lungs. <pad>",
        "No.",
        "none seen",
        "Nan Smith",
        "+",
        "(+)",
    ):
        assert not is_nothing(word), word


def test_labels() -> None:
    words = {
        "1": 1, "1.0": 1, "True": 1, "yes": 1, "Positive": 1, "0": 0, "-0.0": 0, "false": 0, "absent": 0, "-1": -1,
        "-1.0": -1, "uncertain": -1, "": None, "nan": None, "N/A": None, "unknown": None, "1,0": 1, "-1,0": -1, "Ja": 1,
        "nein": 0, "?": None, "t": 1, "F": 0, "No.": 0, " Y": 1,
    }  # fmt: skip
    assert {word: label_of(word) for word in words} == words
    for word in ("2", "0.5", "0,5", "+", "maybe", "1 0", "Edema", "١"):
        with pytest.raises(LlavaRadError, match=r"^the table: row 3, column 'Edema': it holds no label$"):
            labels_of({"Edema": word}, ["Edema"], "the table: row 3")
