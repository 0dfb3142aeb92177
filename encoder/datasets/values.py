"""Splits, labels, sex, age and ethnicity: values of a manifest, and the words of data sets for them."""

from __future__ import annotations

import re
from collections.abc import Mapping

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
    ("white", "white"),
    ("asian", "asian"),
    ("black", "black/african american"),
    ("hispanic", "hispanic/latino"),
    ("latino", "hispanic/latino"),
    ("american indian", "american indian/alaska native"),
)
"""Words at the beginning of or inside a value, and the group of the paper (C.6); other known values are ``other``."""

_SPLIT_WORDS = {"train": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val", "test": "test"}
_LABEL_WORDS = LABEL_VALUES | {"1.0": 1.0, "0.0": 0.0, "-1.0": -1.0}
_SEX_WORDS = {"f": "F", "female": "F", "m": "M", "male": "M"}
_NO_ETHNICITY = ("", "unknown", "unable to obtain", "patient declined to answer", "nan", "none")


def split_of(text: str) -> str:
    """Map a data set's word to ``"train"``, ``"val"`` or ``"test"``; "" for other words."""
    return _SPLIT_WORDS.get(text.strip().lower(), "")


def sex_of(text: str) -> str:
    """Map a data set's word to ``"F"`` or ``"M"``; "" for other words."""
    return _SEX_WORDS.get(text.strip().lower(), "")


def age_of(text: str) -> str:
    """Whole years of an age such as ``"057Y"`` or ``"54.0"``; "" where the text is no age in years."""
    years = re.fullmatch(r"0*(\d{1,3})(?:\.\d+)?\s*[Yy]?", text.strip())
    return years[1] if years else ""


def ethnicity_of(text: str) -> str:
    """Map a data set's word to one of the six groups of the paper (C.6); "" where nothing is known."""
    word = text.strip().lower()
    if word in _NO_ETHNICITY:
        return ""
    found = next((group for start, group in ETHNICITIES if word.startswith(start)), None)
    return found or next((group for part, group in ETHNICITIES if part in word), "other")


def attributes_of(sex: str = "", age: str = "", **more: str) -> dict[str, str]:
    """Build the attributes of a row from a table's cells; values that cannot be read are left out."""
    found = {"sex": sex_of(sex), "age": age_of(age)} | more
    return {name: value for name, value in found.items() if value}


def is_label(text: str) -> bool:
    """Tell whether a cell holds a label: 1, 0, -1 or nothing."""
    return text.strip() in _LABEL_WORDS


def labels_of(cells: Mapping[str, str], names: tuple[str, ...]) -> dict[str, float | None]:
    """Read the labels in some columns of a row; other values than 1, 0 and -1 are unknown."""
    return {name: _LABEL_WORDS.get(cells.get(name, "").strip()) for name in names}
