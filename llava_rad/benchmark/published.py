"""Results of the paper for report generation: table 2, and appendix C.6.2 for groups of patients."""

from __future__ import annotations

from typing import Final, NamedTuple

TABLE: Final = "csv"
NAMES: Final = ("mimic-cxr", "mimic-cxr-jpg", "iu-xray", "rexrank", "rexgradient", "chexpert-plus", TABLE)
"""Data sets that can be scored; ``csv`` is any table of reports."""


class Value(NamedTuple):
    """Median and 95 % interval of 500 bootstrap samples, times 100."""

    median: float
    low: float
    high: float


class Row(NamedTuple):
    """One encoder of table 2, followed by the same kind of projector and Vicuna-7B v1.5.

    Attributes:
        encoder: name in the paper.
        tokens: image tokens, as printed in the paper (BiomedCLIP's ViT-B/16 has 196 at 224 pixels).
        rouge_l, bleu_4, rg_er, chexbert_macro_f1_14: scores, named as in :mod:`metrics`.
    """

    encoder: str
    tokens: int
    rouge_l: Value
    bleu_4: Value
    rg_er: Value
    chexbert_macro_f1_14: Value


SCORES: Final = ("rouge_l", "bleu_4", "rg_er", "chexbert_macro_f1_14")
SOURCE: Final = "Pérez-García et al. 2025, table 2"
REPORTS: Final = {"mimic-cxr": 2_461, "iu-xray": 3_306}
"""Number of scored reports."""


def _row(encoder: str, tokens: int, *numbers: float) -> Row:
    rouge, bleu, graph, labels = (Value(*numbers[at : at + 3]) for at in range(0, 12, 3))
    return Row(encoder, tokens, rouge, bleu, graph, labels)


TABLE_2: Final = {
    "mimic-cxr": (
        _row("CLIP@224", 256, 23.0, 22.7, 23.4, 8.3, 7.9, 8.6, 20.3, 19.8, 20.7, 24.7, 23.6, 26.0),
        _row("CLIP@336", 576, 23.3, 22.9, 23.7, 8.4, 8.0, 8.7, 20.4, 19.9, 20.9, 25.3, 24.2, 26.5),
        _row("DINOv2", 1369, 22.7, 22.4, 23.2, 7.6, 7.3, 7.9, 18.5, 18.1, 19.1, 18.6, 17.8, 19.5),
        _row("BiomedCLIP", 256, 23.1, 22.8, 23.5, 7.9, 7.5, 8.2, 20.4, 19.9, 20.8, 24.9, 23.8, 26.1),
        _row("CheXzero", 49, 23.2, 22.9, 23.6, 8.0, 7.7, 8.4, 20.6, 20.2, 21.1, 26.2, 25.0, 27.5),
        _row("BioViL-T", 196, 23.5, 23.2, 23.9, 7.3, 7.0, 7.6, 22.4, 21.9, 22.8, 28.4, 27.2, 29.8),
        _row("RAD-DINO-Control", 1369, 24.2, 23.8, 24.6, 9.0, 8.7, 9.4, 22.4, 21.9, 22.9, 31.5, 30.1, 32.9),
        _row("RAD-DINO", 1369, 24.6, 24.2, 25.0, 9.3, 8.9, 9.7, 22.8, 22.3, 23.3, 31.9, 30.4, 33.3),
    ),
    "iu-xray": (
        _row("CLIP@224", 256, 25.4, 25.1, 25.7, 9.2, 8.9, 9.5, 25.8, 25.3, 26.2, 18.1, 16.1, 20.8),
        _row("CLIP@336", 576, 25.3, 24.9, 25.6, 8.0, 7.8, 8.3, 25.3, 24.8, 25.6, 18.5, 16.7, 20.8),
        _row("DINOv2", 1369, 25.4, 25.1, 25.7, 8.0, 7.7, 8.2, 23.6, 23.2, 24.0, 12.3, 10.6, 14.1),
        _row("BiomedCLIP", 256, 20.2, 19.9, 20.4, 6.3, 6.1, 6.5, 20.0, 19.7, 20.4, 7.1, 5.9, 8.5),
        _row("CheXzero", 49, 25.6, 25.2, 25.9, 8.5, 8.2, 8.8, 25.7, 25.2, 26.1, 18.1, 16.3, 20.1),
        _row("BioViL-T", 196, 26.3, 25.9, 26.6, 8.2, 7.9, 8.4, 25.3, 24.9, 25.7, 20.2, 18.0, 23.0),
        _row("RAD-DINO-Control", 1369, 25.5, 25.2, 25.9, 9.2, 8.9, 9.4, 26.2, 25.8, 26.6, 23.8, 21.4, 26.3),
        _row("RAD-DINO", 1369, 25.8, 25.4, 26.1, 9.0, 8.8, 9.3, 26.2, 25.7, 26.5, 25.5, 23.0, 28.0),
    ),
}  # fmt: skip


class Groups(NamedTuple):
    """ROUGE-L x 100 over all reports and in the worst ethnicity group (appendix C.6.2, MIMIC-CXR)."""

    encoder: str
    average: float
    worst: float


WORST_GROUP: Final = (Groups("BiomedCLIP", 23.1, 16.6), Groups("BioViL-T", 23.5, 16.3), Groups("RAD-DINO", 24.6, 16.6))
