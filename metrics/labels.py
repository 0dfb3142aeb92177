"""The fourteen CheXpert observations and the four values that a labeler gives to each.

Order and codes are those of CheXbert (Smit et al. 2020, https://github.com/stanfordmlgroup/CheXbert).
"""

from __future__ import annotations

from typing import Final

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
