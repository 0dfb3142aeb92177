"""Leaderboards: their columns, and the metrics here that give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Column:
    """Column of a leaderboard.

    Attributes:
        name: on the leaderboard.
        metric: row of the registry that gives it, which a version may lack.
        scores: names of the score; the first that was computed is shown.
    """

    name: str
    metric: str
    scores: tuple[str, ...]


@dataclass(frozen=True)
class Board:
    """A leaderboard.

    Attributes:
        title: name for readers.
        columns: of its table.
        scale: factor of the numbers that it shows.
        decimals: decimals of these.
        about: what is known of its computation, and its source.
    """

    title: str
    columns: tuple[Column, ...]
    scale: int
    decimals: int
    about: str

    def number(self, value: float) -> str:
        """Return a score as the leaderboard shows one."""
        return f"{self.scale * value:.{self.decimals}f}"


BOARDS: Final[Mapping[str, Board]] = {
    "rexrank": Board(
        "ReXrank",
        (
            Column("BLEU", "bleu_2_sentence", ("bleu_2_sentence",)),
            Column("BertScore", "bertscore_radcliq", ("bertscore_radcliq",)),
            Column("SembScore", "sembscore", ("sembscore",)),
            Column("RadGraph", "radgraph_combined", ("radgraph_combined",)),
            Column("1/RadCliQ-v1", "radcliq", ("radcliq_v1_inverse",)),
            Column("RaTEScore", "ratescore", ("ratescore",)),
            Column("GREEN", "green", ("green",)),
        ),
        1,
        3,
        "Columns by the README of rajpurkarlab/ReXrank-metric: BLEU is BLEU-2, mean of reports; BertScore is of "
        "distilroberta-base, rescaled (here weighted by idf as in RadCliQ, there not); RadGraph is the mean of entity "
        "and relation F1. CRIMSON and FineRadScore, which ask language models over the network, are not computed.",
    ),
    "rrg24": Board(
        "RRG24",
        (
            Column("BLEU4", "bleu_4_coco", ("bleu_4_coco",)),
            Column("ROUGEL", "rouge_l_stem", ("rouge_l_stem",)),
            Column("BERTScore", "bertscore", ("bertscore_f1",)),
            Column("F1-CheXbert", "chexbert", ("chexbert_micro_f1_14+", "chexbert_micro_f1_14")),
            Column("F1-RadGraph", "rg_er_xl", ("rg_xl_er", "rg_xl_er_lower")),
        ),
        100,
        2,
        "Scorers of ViLMedic (jbdel/vilmedic, scores.py): BLEU of COCO captions, ROUGE-L with stems, BERTScore of "
        "distilbert-base-uncased, layer 5, rescaled (--bertscore-model, -layers, -baseline), CheXbert's micro F1 with "
        "uncertain as positive (--uncertain positive), RadGraph F1 partial, today of RadGraph-XL.",
    ),
}
