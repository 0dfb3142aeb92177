"""The fourteen CheXpert observations and the four values that a labeler gives to each.

Order and codes are those of CheXbert (Smit et al. 2020, https://github.com/stanfordmlgroup/CheXbert).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from metrics.errors import WeightsError

CLASSES: Final = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    "No Finding",
)
TOP_5: Final = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")

BLANK, POSITIVE, NEGATIVE, UNCERTAIN = 0, 1, 2, 3
VALUES: Final = ("blank", "positive", "negative", "uncertain")

_ENOUGH = 20


def refuse_constant(texts: Sequence[str], values: Sequence[Any], what: str) -> None:
    """Refuse a model that says the same of every text: its weights are random, or another model's.

    Args:
        texts: N texts.
        values: what the model gave for each. Fewer than 20 different texts say nothing.
        what: the model, for the message.

    Raises:
        WeightsError: all values are equal.
    """
    different = {text for text in texts if text.strip()}
    if len(different) < _ENOUGH:
        return
    first, *others = (value for text, value in zip(texts, values, strict=True) if text.strip())
    if all(value == first for value in others):
        raise WeightsError(
            f"{what} gives the same result for all {len(different)} different reports: "
            "the weights are random or not of this model",
            hint="check the file that was given",
        )
