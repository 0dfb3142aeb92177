"""What the paper reports for frozen encoders: tables 1, 5, C.1 and C.2 (mean and standard deviation)."""

from __future__ import annotations

from typing import Final, NamedTuple


class Value(NamedTuple):
    """Mean and standard deviation, times 100; the latter is None where the paper gives none."""

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
"""By data set and encoder. BiomedCLIP's row is there for the shape of the gap."""

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


def column(dataset: str, encoder: str = "RAD-DINO") -> Columns:
    """The paper's AUPRC of a data set; empty where it has none."""
    return AUPRC.get(dataset, {}).get(encoder, {})
