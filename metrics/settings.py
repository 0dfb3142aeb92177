"""Which metrics are computed, and from what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from metrics.errors import InputError

if TYPE_CHECKING:
    from metrics.f1 import Uncertain

PAPER: Final = ("rouge_l", "bleu_4", "rg_er", "chexbert")
ROUGE: Final = ("rouge_l", "rouge_l_stem", "rouge_l_coco")
BLEU: Final = ("bleu_4", "bleu_4_lower", "bleu_4_nosmooth", "bleu_4_coco")
METRICS: Final = (*ROUGE, *BLEU, "rg_er", "chexbert", "rules", "bertscore")


@dataclass(frozen=True)
class Settings:
    """Which metrics, and from what.

    Attributes:
        metrics: names of :data:`METRICS`.
        clean: ``r2gen`` prepares all texts with :func:`metrics.texts.r2gen_clean`, references cut at 60 tokens.
        uncertain: what uncertain labels count as.
        chexbert: its weights; None looks in the hub cache, as for all that follow.
        bert_vocab: vocabulary of CheXbert.
        radgraph: archive or folder.
        radgraph_model: ``radgraph`` (the paper's time) or ``radgraph-xl``.
        radgraph_tokenizer: folder of the archive's base model (config and tokenizer).
        radgraph_backend: our inference, or the package's, which gives the same more slowly.
        radgraph_case: whether tokens are compared with their case.
        bertscore_model: folder or hub repository.
        bertscore_layers: which layer to take.
        bertscore_baseline: table to rescale with.
        device: of torch.
        precision: of CheXbert and RadGraph.
        batch_size: reports at a time.
        allow_download: whether the hub may be asked.
    """

    metrics: tuple[str, ...] = PAPER
    clean: Literal["none", "r2gen"] = "none"
    uncertain: Uncertain = "negative"
    chexbert: Path | None = None
    bert_vocab: Path | None = None
    radgraph: Path | None = None
    radgraph_model: Literal["radgraph", "radgraph-xl"] = "radgraph"
    radgraph_tokenizer: Path | None = None
    radgraph_backend: Literal["own", "package"] = "own"
    radgraph_case: Literal["sensitive", "lower"] = "sensitive"
    bertscore_model: str | None = None
    bertscore_layers: int | None = None
    bertscore_baseline: Path | None = None
    device: str = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_size: int = 8
    allow_download: bool = False


def checked_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Names of metrics, each once; "paper" stands for the paper's four.

    Raises:
        InputError: an unknown name.
    """
    chosen: dict[str, None] = {}
    for name in names:
        if name not in {*METRICS, "paper", "all"}:
            raise InputError(f"there is no metric {name!r}", hint=f"choose from {', '.join(('paper', *METRICS))}")
        chosen |= dict.fromkeys(PAPER if name == "paper" else METRICS if name == "all" else (name,))
    if not chosen:
        raise InputError("no metric is named")
    return tuple(chosen)
