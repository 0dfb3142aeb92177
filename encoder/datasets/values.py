"""Splits, labels, sex, age and ethnicity: values of a manifest, and the words of data sets for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from encoder.errors import LlavaRadError

SPLITS = ("train", "val", "test", "")
LABEL_VALUES: dict[str, float | None] = {"1": 1.0, "0": 0.0, "-1": -1.0, "": None}
"""Text of a label in a manifest: present, absent, uncertain, unknown."""
CHEXPERT = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
"""The 14 observations of the CheXpert labeler, which CheXpert, MIMIC-CXR-JPG and BRAX share."""
ETHNICITIES = (
    ("hispanic/latino", r"hispanic|latin|mexican|puerto rican|cuban"),
    ("white", r"white|caucasi|european|blanc|branc|wei(?:ss|ß)"),
    ("black/african american", r"black|african|afro|noire?\b|negr[oa]|schwarz|pret[oa]\b"),
    ("asian", r"asian|chinese|japanese|korean|vietnamese|filipino"),
    ("american indian/alaska native", r"american indian|alaska|native american"),
)
"""Groups of the paper (C.6) and patterns of the words that name them; other known words are ``other``."""

_NOTHING = {
    "nan", "none", "null", "na", "nat", "nil", "missing", "notavailable", "notapplicable", "nbsp", "redacted",
}  # fmt: skip
# Tokens that generators leave in their texts.
_SPECIAL_TOKEN = re.compile(r"<\|[^<>|]{1,40}\|>|[<\[]/?(?:s|pad|unk|bos|eos|cls|sep|mask)\d*[>\]]", re.IGNORECASE)
_LONGEST_NOTHING = 16  # with spaces and full stops
_WORD = re.compile(r"[^\W_]+")
_REMOVED = 4  # letters of the XXXX that Open-i put for words that it removed
_SPLITS = {
    "train": ("train", "training", "trn", "tr"),
    "val": ("val", "valid", "validate", "validation", "dev", "devel", "development", "tune", "tuning"),
    "test": ("test", "testing", "tst", "eval", "evaluation", "holdout", "hold-out"),
}
_SPLIT_WORDS = {word: split for split, words in _SPLITS.items() for word in words}
_LABEL_WORDS: dict[str, float] = {"true": 1.0, "false": 0.0}
_ANSWERS: dict[str, float | None] = {
    "yes": 1.0, "y": 1.0, "positive": 1.0, "pos": 1.0, "present": 1.0, "no": 0.0, "n": 0.0, "negative": 0.0,
    "neg": 0.0, "absent": 0.0, "ja": 1.0, "nein": 0.0, "positiv": 1.0, "negativ": 0.0, "uncertain": -1.0, "u": -1.0,
    "t": 1.0, "f": 0.0, "unknown": None, "not mentioned": None, "blank": None,
}  # fmt: skip
_SEXES = {
    "F": ("f", "female", "fem", "woman", "girl", "w", "weiblich", "femme", "mujer", "femenino", "feminino", "feminin"),
    "M": ("m", "male", "man", "boy", "männlich", "mannlich", "homme", "hombre", "masculino", "masculin"),
}
_SEX_WORDS = {word: sex for sex, words in _SEXES.items() for word in words}
_OLDEST = 120
_WORDS = 4096  # large tables repeat few words
_AGE = re.compile(
    r"(?P<above>>=?|≥|over|above)?\s*(?P<number>\d{1,3}(?:[.,]\d+)?)\s*(?P<plus>\+)?\s*"
    r"(?P<unit>y|yrs?|years?|yo|y/o|m|mo|mos|months?|w|wks?|weeks?|d|days?)?\.?(?:\s*(?:old|of age))?\s*(?P<end>\+)?"
)
_PER_YEAR = {"m": 12.0, "w": 52.1775, "d": 365.25}
_NOT_HISPANIC = re.compile(
    r"\bno[nt]?[ -]*(?:of )?(?:hispanic|latin[oaxe]?)(?:(?: ?/ ?| or |, )(?:latin[oaxe]?|spanish))*(?: origin)?\b"
)
_NOT_GROUP = re.compile(r"\bno[nt][ -]*(?:(?:an? |of )*)(?:white|caucasian|black|african|asian)\w*")
_UNKNOWN = re.compile(
    r"unknown|unable|declin|refus|withheld|unspecified|undisclosed|unavailable|\bnot\b|\bno (?:answer|data|information)"
    r"|\bdo(?:es)?n.?t know"
)
_NO_ANSWER = re.compile(
    r"(?:patient |subject )?(?:unknown|undetermined|unspecified|undisclosed|unavailable|withheld|do(?:es)?n.?t know"
    r"|(?:declined?|declines|refused|refuses|unable)(?: to (?:answer|obtain|say|state|specify|respond|disclose))?"
    r"|(?:prefer|choose|chose)s? not to \w+"
    r"|not (?:known|available|specified|reported|recorded|stated|given|provided|documented|disclosed|applicable)"
    r"|no (?:answer|data|information))"
)
_ETHNICITY_CODES = {"w": "white", "b": "black/african american", "a": "asian", "h": "hispanic/latino"}


def is_nothing(text: str) -> bool:
    """Tell whether a cell says nothing: white space, ``___`` or ``XXXX`` (removed), or words such as "nan", "<pad>".

    ``+`` says something (positive), ``-`` and ``?`` do not.
    """
    word = text.strip()
    if len(word) <= _LONGEST_NOTHING:
        return _is_short_nothing(word)
    first = _WORD.match(word)  # tells it for most cells of large tables
    return (first is None or _is_placeholder(first[0].lower())) and _holds_nothing(word)


def _holds_nothing(word: str) -> bool:
    words = ["".join(filter(str.isalnum, part)) for part in _SPECIAL_TOKEN.sub(" ", word).lower().split()]
    bare = "".join(words)  # "N.A.", "(none)", "<NA>"
    if not bare:
        return "+" not in word
    return _is_placeholder(bare) or all(map(_is_placeholder, filter(None, words)))


_is_short_nothing = lru_cache(_WORDS)(_holds_nothing)


def _is_placeholder(word: str) -> bool:
    return word in _NOTHING or (len(word) >= _REMOVED and not word.strip("x"))


def is_unknown(text: str) -> bool:
    """Tell whether a cell says nothing, or that something is not known, such as "declined to answer"."""
    return is_nothing(text) or _UNKNOWN.search(text.lower()) is not None


def is_no_answer(text: str) -> bool:
    """Tell whether a cell as a whole says nothing or that something is not known; "not smoking" is an answer."""
    parts = re.split(r"\s*(?:[/,;|]|\bor\b)\s*", text.strip().strip(".?!()[]<>*").lower())
    return is_nothing(text) or all(is_nothing(part) or _NO_ANSWER.fullmatch(part) for part in parts)


def known(text: str) -> str:
    """Strip a cell; "" where it says nothing."""
    return "" if is_nothing(text) else text.strip()


def split_of(text: str) -> str:
    """Map a data set's word to ``"train"``, ``"val"`` or ``"test"``; "" for other words."""
    return _SPLIT_WORDS.get(re.sub(r"[\s_-]*(set|split)$", "", text.strip().lower()), "")


@lru_cache(_WORDS)
def sex_of(text: str) -> str:
    """Map a data set's word to ``"F"`` or ``"M"``; "" for other words."""
    return _SEX_WORDS.get(text.strip().strip(".").lower(), "")


def years_of(text: str) -> float | None:
    """Read an age in years: ``"057Y"``, ``"54.0"``, ``"6M"`` (months), ``"012W"``, ``"90+"``; ``">89"`` is 90.

    Returns:
        None where the text is no age, or one above 120 years such as the 411 of ChestX-ray14.
    """
    found = _AGE.fullmatch(text.strip().lower())
    if found is None:
        return None
    years = float(found["number"].replace(",", ".")) / _PER_YEAR.get((found["unit"] or "y")[0], 1.0)
    years += found["above"] in (">", "over", "above")
    return years if years <= _OLDEST else None


@lru_cache(_WORDS)
def age_of(text: str) -> str:
    """Whole years of an age; "" where :func:`years_of` reads none."""
    years = years_of(text)
    return "" if years is None else str(int(years))


@lru_cache(_WORDS)
def ethnicity_of(text: str) -> str:
    """Map words for race or ethnicity to one of the six groups of the paper (C.6); "" where nothing is known.

    Hispanic or Latino of any race is that group; several other groups together are ``other``.
    """
    word = " ".join(re.sub(r"[_]+", " ", text.lower()).split())
    word = _NOT_GROUP.sub(" ", _NOT_HISPANIC.sub(" ", word))
    if is_nothing(word) or not any(map(str.isalpha, word)):
        return ""
    if word.strip() in _ETHNICITY_CODES:
        return _ETHNICITY_CODES[word.strip()]
    found = [group for group, words in ETHNICITIES if re.search(rf"\b(?:{words})", word)]
    if found:
        return found[0] if len(found) == 1 or found[0] == "hispanic/latino" else "other"
    return "" if is_unknown(word) else "other"


def measure_of(text: str) -> str:
    """Read a positive number such as a weight; "" for other text."""
    found = re.fullmatch(r"\d{1,3}(?:[.,]\d+)?", text.strip())
    return found[0].replace(",", ".") if found and float(found[0].replace(",", ".")) else ""


def attributes_of(
    sex: str = "", age: str = "", ethnicity: str = "", weight: str = "", bmi: str = "", **more: str
) -> dict[str, str]:
    """Build the attributes of a row from a table's cells; values that cannot be read are left out."""
    found = {"sex": sex_of(sex), "age": age_of(age), "ethnicity": ethnicity_of(ethnicity)}
    found |= {"weight": measure_of(weight), "bmi": measure_of(bmi)} | more
    return {name: value for name, value in found.items() if value}


def is_label(text: str) -> bool:
    """Tell whether a cell holds a label: 1, 0, -1, true, false or nothing."""
    return is_nothing(text) or _number(text) is not None


def label_of(text: str) -> float | None:
    """Read a label: 1, 0, -1, true, false, a word such as "yes", "absent" or "uncertain", or nothing (None).

    Raises:
        ValueError: if the text is none of these.
    """
    if is_nothing(text):
        return None
    number, word = _number(text), text.strip().strip(".").lower()
    if number is None and word not in _ANSWERS:
        raise ValueError
    return _ANSWERS[word] if number is None else number


def labels_of(cells: Mapping[str, str], names: Iterable[str], where: str) -> dict[str, float | None]:
    """Read the labels in some columns of a row; an absent column is unknown.

    Args:
        cells: of the row.
        names: columns.
        where: table and row, for the error message.

    Raises:
        LlavaRadError: if a cell holds no label; the message names the column.
    """
    found: dict[str, float | None] = {}
    for name in names:
        try:
            found[name] = label_of(cells.get(name, ""))
        except ValueError:
            raise LlavaRadError(
                f"{where}, column '{name}': it holds no label", hint="labels are 1, 0, -1 (uncertain) or empty"
            ) from None
    return found


def checked(text: str, words: Iterable[str], where: str) -> str:
    """Return a cell that must be one of some words.

    Args:
        text: of the cell.
        words: that are allowed.
        where: table, row and column, for the error message.

    Raises:
        LlavaRadError: if it is another.
    """
    allowed = list(words)
    if text.strip() not in allowed:
        raise LlavaRadError(f"{where}: it is none of {', '.join(allowed)}")
    return text.strip()


def _number(text: str) -> float | None:
    word = text.strip().lower()
    if re.fullmatch(r"[+-]?[01](?:[.,]0*)?", word):
        return float(word.replace(",", ".")) + 0.0  # no negative zero
    return _LABEL_WORDS.get(word)
