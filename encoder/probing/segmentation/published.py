"""What the paper reports for segmentation: tables 3 and C.3 (Dice times 100)."""

from __future__ import annotations

from typing import Final

from encoder.probing.published import Columns, Value

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
"""Trainable ones, of one structure and ViT-B; the last for EfficientNet-B6."""

WORST_GROUP: Final[dict[str, dict[str, tuple[float, float]]]] = {
    "BioViL-T": {"lungs": (83.2, 81.4), "lung zones": (69.4, 66.2)},
    "BiomedCLIP": {"lungs": (90.4, 89.9), "lung zones": (76.0, 73.1)},
    "RAD-DINO": {"lungs": (95.9, 95.6), "lung zones": (85.7, 82.1)},
}
"""By encoder, with the linear head: mean over images and mean of the worst group by ethnicity, table C.3."""
