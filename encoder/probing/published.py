"""Numbers that the paper reports for frozen encoders: tables 1, 3, 5, C.1, C.2 and C.3 (mean, standard deviation)."""

from __future__ import annotations

from typing import Final, NamedTuple


class Value(NamedTuple):
    """Mean and standard deviation, times 100; the latter is None if the paper gives none."""

    mean: float
    sd: float | None = None


Columns = dict[str, Value]
"""By label, ``macro`` for the aggregate."""

AUPRC: Final[dict[str, dict[str, Columns]]] = {
    "vindr-cxr": {
        "BiomedCLIP": {
            "Lung Opacity": Value(10.0, 0.3),
            "Cardiomegaly": Value(58.5, 0.8),
            "Pleural thickening": Value(24.4, 0.5),
            "Aortic enlargement": Value(36.2, 0.2),
            "Pulmonary fibrosis": Value(32.0, 0.6),
            "Tuberculosis": Value(36.3, 0.9),
            "Pleural effusion": Value(54.1, 0.6),
            "macro": Value(35.9),
        },
        "RAD-DINO": {
            "Lung Opacity": Value(14.9, 0.2),
            "Cardiomegaly": Value(69.9, 0.3),
            "Pleural thickening": Value(36.6, 0.6),
            "Aortic enlargement": Value(44.6, 0.3),
            "Pulmonary fibrosis": Value(59.4, 0.2),
            "Tuberculosis": Value(66.3, 0.3),
            "Pleural effusion": Value(77.8, 0.4),
            "macro": Value(52.8),
        },
    },
    "candid-ptx": {
        "RAD-DINO": {
            "Pneumothorax": Value(80.1, 1.6),
            "Chest tube": Value(90.8, 1.6),
            "Rib fracture": Value(13.4, 4.1),
        },
    },
    "rsna-pneumonia": {"RAD-DINO": {"Pneumonia": Value(71.0, 1.8)}},
    "padchest-lateral": {
        "RAD-DINO": {
            "Vertebral degenerative changes": Value(80.33, 1.32),
            "Pleural effusion": Value(94.53, 0.95),
            "Costophrenic angle blunting": Value(83.57, 2.63),
            "macro": Value(86.14),
        },
    },
}
"""AUPRC of linear probes by data set and encoder."""

ACCURACY: Final[dict[str, Columns]] = {
    "BioViL-T": {
        "sex": Value(75.1, 0.3),
        "age": Value(60.8, 0.5),
        "weight": Value(43.8, 0.5),
        "bmi": Value(47.6, 0.1),
        "ethnicity": Value(64.8, 0.2),
    },
    "BiomedCLIP": {
        "sex": Value(86.0, 0.3),
        "age": Value(56.5, 0.5),
        "weight": Value(52.8, 0.4),
        "bmi": Value(54.2, 0.1),
        "ethnicity": Value(64.6, 0.1),
    },
    "RAD-DINO": {
        "sex": Value(99.6, 0.1),
        "age": Value(72.3, 0.3),
        "weight": Value(62.4, 0.4),
        "bmi": Value(71.3, 0.2),
        "ethnicity": Value(76.9, 0.5),
    },
}
"""Accuracy on MIMIC-CXR images without findings (60.1 thousand), five-fold cross-validation (tables 5, C.2)."""

TARGETS: Final = ("lungs", "lung zones", "pneumothorax", "chest tubes", "ribs")
"""``lungs`` is the mean over left and right, ``lung zones`` over six zones."""


def _row(*values: tuple[float, float]) -> Columns:
    return {target: Value(*value) for target, value in zip(TARGETS, values, strict=True)}


DICE: Final[dict[tuple[str, str], Columns]] = {
    ("NN-UNet", "unet"): _row((98.0, 1.1), (92.6, 10.2), (69.7, 30.2), (78.1, 29.2), (86.2, 2.8)),
    ("EfficientNet-B6", "unet"): _row((98.3, 1.1), (92.7, 10.1), (73.5, 26.9), (80.5, 27.0), (88.9, 2.6)),
    ("BioViL-T", "linear"): _row((83.2, 3.2), (69.4, 9.0), (30.2, 28.3), (48.1, 48.0), (59.1, 4.7)),
    ("BiomedCLIP", "linear"): _row((90.4, 2.6), (76.2, 10.2), (29.3, 21.7), (32.6, 45.0), (67.4, 4.5)),
    ("CheXzero", "linear"): _row((84.0, 3.4), (68.3, 9.1), (21.8, 21.4), (47.7, 49.3), (62.0, 3.3)),
    ("RAD-DINO (no MIM)", "linear"): _row((91.3, 2.5), (78.8, 9.6), (35.8, 25.7), (41.3, 42.4), (67.3, 4.7)),
    ("RAD-DINO", "linear"): _row((95.9, 1.5), (85.7, 9.8), (53.4, 26.1), (63.0, 39.3), (73.4, 3.6)),
    ("RAD-DINO", "vitdet"): _row((97.8, 1.2), (90.7, 10.0), (61.7, 26.2), (54.4, 40.4), (83.6, 2.9)),
    ("RAD-DINO", "upernet"): _row((98.0, 1.1), (91.2, 10.1), (65.8, 28.3), (71.9, 37.1), (85.3, 2.6)),
}
"""By encoder and decoder: mean and standard deviation over the test images with masks, table 3."""

PARAMETERS: Final[dict[str, float]] = {"linear": 769, "vitdet": 24.8e6, "upernet": 39.3e6, "unet": 45.9e6}
"""Trainable parameters of each head for one structure and ViT-B; the last for EfficientNet-B6."""

WORST_GROUP: Final[dict[str, dict[str, tuple[float, float]]]] = {
    "BioViL-T": {"lungs": (83.2, 81.4), "lung zones": (69.4, 66.2)},
    "BiomedCLIP": {"lungs": (90.4, 89.9), "lung zones": (76.0, 73.1)},
    "RAD-DINO": {"lungs": (95.9, 95.6), "lung zones": (85.7, 82.1)},
}
"""By encoder, with the linear head: mean over images and mean of the worst group by ethnicity, table C.3."""


def column(dataset: str, encoder: str = "RAD-DINO") -> Columns:
    """Return the paper's AUPRC of a data set; empty if it has none."""
    return AUPRC.get(dataset, {}).get(encoder, {})
