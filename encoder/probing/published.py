"""Numbers that the paper reports for frozen encoders: tables 1, 3, 5, B.1, C.1, C.2 and C.3 (mean, standard
deviation)."""

from __future__ import annotations

from typing import Final, NamedTuple


class Value(NamedTuple):
    """Mean and standard deviation, times 100; the latter is None if the paper gives none."""

    mean: float
    sd: float | None = None


Columns = dict[str, Value]
"""By label, ``macro`` for the aggregate."""

VINDR: Final = (
    "Lung Opacity", "Cardiomegaly", "Pleural thickening", "Aortic enlargement", "Pulmonary fibrosis", "Tuberculosis",
    "Pleural effusion",
)  # fmt: skip
CANDID: Final = ("Pneumothorax", "Chest tube", "Rib fracture")
LATERAL: Final = ("Vertebral degenerative changes", "Pleural effusion", "Costophrenic angle blunting")
RSNA: Final = ("Pneumonia",)


def _row(labels: tuple[str, ...], *values: tuple[float, float], macro: float | None = None) -> Columns:
    columns = {label: Value(*value) for label, value in zip(labels, values, strict=True)}
    return columns if macro is None else columns | {"macro": Value(macro)}


_AT_RANDOM: Final = "RAD-DINO (random initialisation)"

AUPRC: Final[dict[str, dict[str, Columns]]] = {
    # table 1a; DINOv2 and random initialisation: table B.1
    "vindr-cxr": {
        "CLIP@224": _row(
            VINDR, (9.7, 0.4), (42.6, 0.2), (18.8, 0.4), (30.0, 0.5), (24.1, 0.4), (19.6, 0.5), (21.8, 0.4), macro=23.8
        ),
        "CLIP@336": _row(
            VINDR, (9.1, 0.1), (46.1, 0.2), (18.5, 0.2), (29.0, 0.3), (22.8, 0.3), (19.4, 0.4), (18.6, 0.3), macro=23.4
        ),
        "BioViL-T": _row(
            VINDR, (12.7, 0.1), (51.4, 0.5), (24.6, 0.2), (22.3, 0.1), (30.5, 0.1), (33.1, 0.2), (52.2, 0.4), macro=32.4
        ),
        "BiomedCLIP": _row(
            VINDR, (10.0, 0.3), (58.5, 0.8), (24.4, 0.5), (36.2, 0.2), (32.0, 0.6), (36.3, 0.9), (54.1, 0.6), macro=35.9
        ),
        "CheXzero": _row(
            VINDR, (11.1, 0.6), (74.4, 0.2), (25.1, 0.3), (42.9, 0.2), (33.1, 0.4), (33.5, 0.3), (60.2, 0.5), macro=40.0
        ),
        "MRM": _row(
            VINDR, (12.2, 0.3), (79.7, 0.4), (35.8, 0.8), (47.7, 0.6), (47.1, 0.5), (59.3, 1.0), (77.2, 0.3), macro=51.3
        ),
        "RAD-DINO": _row(
            VINDR, (14.9, 0.2), (69.9, 0.3), (36.6, 0.6), (44.6, 0.3), (59.4, 0.2), (66.3, 0.3), (77.8, 0.4), macro=52.8
        ),
        "DINOv2 (ViT-B)": _row(
            VINDR, (11.6, 0.6), (51.0, 0.7), (27.5, 0.4), (30.1, 0.3), (28.4, 0.6), (29.9, 1.2), (42.5, 1.6), macro=31.6
        ),
        "DINOv2 (ViT-G)": _row(
            VINDR, (13.0, 0.3), (54.4, 0.4), (25.1, 0.3), (29.3, 0.2), (30.1, 0.1), (32.3, 0.5), (50.1, 0.9), macro=33.5
        ),
        _AT_RANDOM: _row(
            VINDR, (11.7, 0.2), (73.7, 0.4), (31.7, 0.8), (41.1, 0.2), (39.7, 0.6), (46.7, 0.7), (76.7, 0.3), macro=45.9
        ),
    },
    # table 1b
    "candid-ptx": {
        "CLIP@224": _row(CANDID, (41.7, 1.6), (25.2, 1.0), (4.0, 1.1)),
        "CLIP@336": _row(CANDID, (43.6, 1.1), (29.6, 1.7), (5.2, 2.0)),
        "BioViL-T": _row(CANDID, (65.5, 1.5), (31.1, 3.4), (4.3, 1.9)),
        "CheXzero": _row(CANDID, (57.5, 4.1), (42.9, 4.5), (7.2, 2.8)),
        "BiomedCLIP": _row(CANDID, (60.4, 2.0), (46.4, 4.4), (8.1, 2.5)),
        "MRM": _row(CANDID, (74.9, 2.4), (58.2, 4.9), (12.2, 7.1)),
        "RAD-DINO": _row(CANDID, (80.1, 1.6), (90.8, 1.6), (13.4, 4.1)),
    },
    "rsna-pneumonia": {
        "CLIP@224": _row(RSNA, (60.1, 2.0)),
        "CLIP@336": _row(RSNA, (60.0, 1.7)),
        "BioViL-T": _row(RSNA, (66.8, 1.5)),
        "CheXzero": _row(RSNA, (68.9, 1.9)),
        "BiomedCLIP": _row(RSNA, (68.4, 1.7)),
        "MRM": _row(RSNA, (71.4, 1.5)),
        "RAD-DINO": _row(RSNA, (71.0, 1.8)),
    },
    # table C.1
    "padchest-lateral": {
        "BioViL-T": _row(LATERAL, (57.12, 2.44), (82.10, 2.36), (69.69, 2.21), macro=69.64),
        "BiomedCLIP": _row(LATERAL, (69.06, 1.24), (90.60, 1.02), (76.21, 2.92), macro=78.62),
        "MRM": _row(LATERAL, (76.97, 1.75), (96.45, 0.98), (83.09, 2.85), macro=85.50),
        "RAD-DINO": _row(LATERAL, (80.33, 1.32), (94.53, 0.95), (83.57, 2.63), macro=86.14),
    },
}
"""AUPRC of linear probes by data set and encoder. ``DINOv2`` is not adapted to radiographs."""

AUROC: Final[dict[str, dict[str, Columns]]] = {
    "rsna-pneumonia": {
        "CLIP@224": _row(RSNA, (83.7, 0.7)),
        "CLIP@336": _row(RSNA, (84.2, 0.4)),
        "BioViL-T": _row(RSNA, (86.9, 0.5)),
        "CheXzero": _row(RSNA, (87.9, 0.4)),
        "BiomedCLIP": _row(RSNA, (87.5, 0.4)),
        "MRM": _row(RSNA, (89.0, 0.5)),
        "RAD-DINO": _row(RSNA, (88.4, 0.6)),
    },
}
"""AUROC of linear probes by data set and encoder, table 1b."""

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


DICE: Final[dict[tuple[str, str], Columns]] = {
    ("NN-UNet", "unet"): _row(TARGETS, (98.0, 1.1), (92.6, 10.2), (69.7, 30.2), (78.1, 29.2), (86.2, 2.8)),
    ("EfficientNet-B6", "unet"): _row(TARGETS, (98.3, 1.1), (92.7, 10.1), (73.5, 26.9), (80.5, 27.0), (88.9, 2.6)),
    ("BioViL-T", "linear"): _row(TARGETS, (83.2, 3.2), (69.4, 9.0), (30.2, 28.3), (48.1, 48.0), (59.1, 4.7)),
    ("BiomedCLIP", "linear"): _row(TARGETS, (90.4, 2.6), (76.2, 10.2), (29.3, 21.7), (32.6, 45.0), (67.4, 4.5)),
    ("CheXzero", "linear"): _row(TARGETS, (84.0, 3.4), (68.3, 9.1), (21.8, 21.4), (47.7, 49.3), (62.0, 3.3)),
    ("RAD-DINO (no MIM)", "linear"): _row(TARGETS, (91.3, 2.5), (78.8, 9.6), (35.8, 25.7), (41.3, 42.4), (67.3, 4.7)),
    ("RAD-DINO", "linear"): _row(TARGETS, (95.9, 1.5), (85.7, 9.8), (53.4, 26.1), (63.0, 39.3), (73.4, 3.6)),
    ("RAD-DINO", "vitdet"): _row(TARGETS, (97.8, 1.2), (90.7, 10.0), (61.7, 26.2), (54.4, 40.4), (83.6, 2.9)),
    ("RAD-DINO", "upernet"): _row(TARGETS, (98.0, 1.1), (91.2, 10.1), (65.8, 28.3), (71.9, 37.1), (85.3, 2.6)),
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


def column(dataset: str, encoder: str = "RAD-DINO", *, auroc: bool = False) -> Columns:
    """Return the paper's AUPRC or AUROC of a data set; empty if it has none."""
    return (AUROC if auroc else AUPRC).get(dataset, {}).get(encoder, {})
