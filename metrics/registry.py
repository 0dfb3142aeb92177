"""Registry of metrics: every metric that exists, by name.

A row names a class as ``module:Class``, so that reading the registry imports nothing. To add a metric, write a
subclass of :class:`metrics.base.Metric` and add its row here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final, cast

from metrics.base import PAPER, InputError, Metric, option_fields
from metrics.boards import BOARDS

PRIOR_CLAIMS: Final = "prior_claims"
"""Metric that commands compute unasked where it is known which reports were written without an earlier image."""
METRICS: Final[dict[str, str]] = {
    "rouge_l": "metrics.rouge:RougeL",
    "rouge_l_stem": "metrics.rouge:RougeL",
    "rouge_l_coco": "metrics.rouge:RougeL",
    "bleu_1": "metrics.bleu:Bleu",
    "bleu_2": "metrics.bleu:Bleu",
    "bleu_3": "metrics.bleu:Bleu",
    "bleu_4": "metrics.bleu:Bleu",
    "bleu_4_lower": "metrics.bleu:Bleu",
    "bleu_4_nosmooth": "metrics.bleu:Bleu",
    "bleu_1_coco": "metrics.bleu:Bleu",
    "bleu_2_coco": "metrics.bleu:Bleu",
    "bleu_3_coco": "metrics.bleu:Bleu",
    "bleu_4_coco": "metrics.bleu:Bleu",
    "bleu_2_sentence": "metrics.bleu:SentenceBleu",
    "cider": "metrics.cider:Cider",
    "rg_er": "metrics.radgraph.rewards:RadGraphF1",
    "rg_er_xl": "metrics.radgraph.rewards:RadGraphXLF1",
    "radgraph_combined": "metrics.radgraph.rewards:RadGraphCombined",
    "chexbert": "metrics.chexbert:CheXbertF1",
    "rules": "metrics.rules.labeler:RulesF1",
    "findings": "metrics.findings.metric:Findings",
    "bertscore": "metrics.bertscore:BERTScoreF1",
    "bertscore_radcliq": "metrics.radcliq:RadCliQBERTScore",
    "sembscore": "metrics.sembscore:SembScore",
    "radcliq": "metrics.radcliq:RadCliQ",
    "ratescore": "metrics.ratescore:RaTEScore",
    "green": "metrics.green:Green",
    PRIOR_CLAIMS: "metrics.comparisons:PriorClaims",
}

SETS: Final[dict[str, tuple[str, ...]]] = {
    "paper": PAPER,
    **{
        name: tuple(column.metric for column in board.columns if column.metric in METRICS)
        for name, board in BOARDS.items()
    },
}
"""Names that stand for several metrics: the paper's, and those of leaderboards."""


def load(name: str) -> type[Metric]:
    """Return the class of a registered metric.

    Raises:
        InputError: if there is no such metric.
    """
    if name not in METRICS:
        raise InputError(f"there is no metric {name!r}", hint=f"choose from {', '.join((*SETS, *METRICS))}")
    module, _, attribute = METRICS[name].partition(":")
    return cast(type[Metric], getattr(import_module(module), attribute))


def classes() -> list[type[Metric]]:
    """Return every registered class once, in the order of the registry."""
    return list(dict.fromkeys(load(name) for name in METRICS))


def options() -> tuple[type, ...]:
    """Return every dataclass of options once."""
    return tuple(dict.fromkeys(kind for metric in classes() for kind in metric.options))


def check_options(values: Mapping[str, Any]) -> None:
    """Check the names of options.

    Raises:
        InputError: if no metric has an option of that name.
    """
    known = set(option_fields(options()))
    if unknown := [name for name in values if name not in known]:
        raise InputError(f"no metric has an option {unknown[0]!r}", hint=f"options: {', '.join(sorted(known))}")


def checked_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of metrics, each once; the names of :data:`SETS` and "all" stand for several.

    Raises:
        InputError: if a name is unknown, or none is given.
    """
    chosen: dict[str, None] = {}
    for name in names:
        if name not in SETS and name != "all":
            load(name)
        chosen |= dict.fromkeys(METRICS if name == "all" else SETS.get(name, (name,)))
    if not chosen:
        raise InputError("no metric is named")
    return tuple(chosen)


def title(score: str) -> str:
    """Return the name of a score in tables and figures."""
    return next((text for metric in classes() if (text := metric.title(score)) is not None), score)


def headline(name: str) -> str:
    """Return the score that represents a metric."""
    return load(name).headline or name


def is_headline(score: str) -> bool:
    """Return if a score represents a metric, also one that counts uncertain as positive ("+") or ignores case.

    Comparisons without a prior have a table of their own.
    """
    plain = score.removesuffix("+").removesuffix("_lower")
    return any(headline(name) in (score, plain) for name in METRICS if name != PRIOR_CLAIMS)


def leading() -> list[str]:
    """Return the scores that come first in tables."""
    return [score for metric in classes() for score in metric.leading]


def labelers() -> dict[str, str]:
    """Return the source of the labels of every metric with scores of single classes, by the metric's name."""
    return {name: words for name in METRICS if (words := load(name).labeler)}
