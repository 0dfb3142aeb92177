"""RadCliQ-v1 (Yu et al. 2023): radiologists' number of errors, predicted from four metrics of a pair of reports.

Definition and parts are those of https://github.com/rajpurkarlab/CXR-Report-Metric; the numbers of its scaler and of
its linear model are those of ``radcliq-v1.pkl`` there, printed to eight digits in RadEval 2.2.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from metrics import chexbert
from metrics.base import HubFile, Metric, MetricError, checked_pairs, option
from metrics.bertscore import BERTScore
from metrics.combined import CombinedMetric
from metrics.radgraph.archive import ARCHIVES
from metrics.scores import Scores, mean_scores

if TYPE_CHECKING:
    from metrics.base import Settings
    from metrics.scores import Floats

WEIGHTS: Final = HubFile(
    "distilbert/distilroberta-base", "model.safetensors", "RadCliQ's BERTScore model", "--radcliq-bertscore-model DIR"
)
LAYERS: Final = 5
_BASELINE: Final = Path("rescale_baseline", "en", "distilroberta-base.tsv")  # in the package bert_score


class Part(NamedTuple):
    """One input of the linear model.

    Attributes:
        mean: of the input in the training data, ReXVal.
        scale: standard deviation there.
        weight: coefficient of the standardised input.
    """

    mean: float
    scale: float
    weight: float


PARTS: Final = {
    "radgraph_combined": Part(0.53792312, 0.30282584, -3.77083683e-01),
    "bertscore_radcliq": Part(0.61757256, 0.22430938, -3.70300100e-01),
    "sembscore": Part(0.76479421, 0.25394391, -2.52616218e-01),
    "bleu_2_sentence": Part(0.44738335, 0.29892717, 4.31504841e-12),
}
"""Inputs by row of the registry; each is the value that the row gives to single reports."""
INTERCEPT: Final = 2.46655256e-10


@dataclass(frozen=True)
class RadCliQOptions:
    """Options of RadCliQ.

    Attributes:
        radcliq_bertscore_model: Folder or hub repository of the DistilRoBERTa of RadCliQ's BERTScore.
    """

    radcliq_bertscore_model: str | None = option(None, metavar="DIR-OR-HUB-ID")


class RadCliQBERTScore(Metric):
    """BERTScore as RadCliQ and ReXrank have it, as a registered metric.

    F1 by layer 5 of distilroberta-base, words weighted by their rarity among the references of the whole set, rescaled
    by the package's baseline. A pair with an empty text scores 0; resamples and groups keep the weights of the set.
    """

    summary = "BERTScore F1 of RadCliQ and ReXrank: distilroberta-base, layer 5, idf, rescaled"
    citation = "Yu, F. et al. Evaluating progress in automatic chest X-ray radiology report generation. 2023."
    options: ClassVar = (RadCliQOptions,)
    weights: ClassVar = (WEIGHTS,)
    titles: ClassVar = {"bertscore_radcliq": "BERTScore (RadCliQ)"}

    def __init__(self, name: str, settings: Settings) -> None:
        super().__init__(name, settings)
        self._scorer = settings.once("model bertscore_radcliq", partial(_scorer, settings))

    def scores(self, candidates: Sequence[str], references: Sequence[str]) -> Scores:
        """Score N pairs; repeated spaces count as one."""
        pairs = ([re.sub(" +", " ", text) for text in texts] for texts in checked_pairs(candidates, references))
        found = self._scorer.score(*pairs)
        return mean_scores({"bertscore_radcliq": found.per_sample["bertscore_f1"]}, found.signature)


def _scorer(settings: Settings) -> BERTScore:
    package = find_spec("bert_score")
    if package is None or package.origin is None:
        raise MetricError("BERTScore needs the package bert-score", hint="pip install 'llava-rad[metrics]'")
    return BERTScore(
        settings.of(RadCliQOptions).radcliq_bertscore_model or WEIGHTS.repository,
        layers=LAYERS,
        baseline=Path(package.origin).parent / _BASELINE,
        idf=True,
        device=settings.device,
        allow_download=settings.allow_download,
        file=WEIGHTS,
    )


def radcliq(parts: Mapping[str, Floats]) -> Floats:
    """Return RadCliQ-v1 of N reports ``[N]`` from the values of its four parts; lower is better.

    Args:
        parts: ``[N]`` each, by the names of :data:`PARTS`.
    """
    first = parts["radgraph_combined"]
    total: Floats = first * 0 + INTERCEPT
    for name, part in PARTS.items():
        total += part.weight * (parts[name] - part.mean) / part.scale
    return total


class RadCliQ(CombinedMetric):
    """1/RadCliQ-v1 as a registered metric.

    Scores of a set are the mean of RadCliQ-v1, lower is better, and one divided by it, as in RadEval and ReXrank:
    higher is better, as long as the mean is positive. RadCliQ is 0 for an average report of ReXVal, and negative for a
    better one.
    """

    parts = tuple(PARTS)
    summary = "RadCliQ-v1, lower is better, and 1/RadCliQ-v1"
    citation = "Yu, F. et al. Evaluating progress in automatic chest X-ray radiology report generation. 2023."
    weights: ClassVar = (ARCHIVES["radgraph"], chexbert.WEIGHTS, chexbert.VOCABULARY, WEIGHTS)
    titles: ClassVar = {"radcliq_v1_inverse": "1/RadCliQ-v1", "radcliq_v1": "RadCliQ-v1"}
    headline = "radcliq_v1_inverse"

    def combine(self, parts: Mapping[str, Scores]) -> Scores:
        """Score N reports from the scores of the four parts."""
        values = radcliq({name: parts[name].per_sample[name] for name in PARTS})
        signatures = ";".join(parts[name].signature.replace("|", ",") for name in PARTS)
        return Scores(
            values[:, None],
            _inverse,
            {"radcliq_v1": values},
            f"radcliq|version:1|aggregate:inverse of the mean|parts:{signatures}",
            costs=frozenset(("radcliq_v1",)),
        )


def _inverse(sums: Floats, counts: Floats) -> dict[str, Floats]:
    import numpy as np

    total = sums[..., 0]
    inverse = np.divide(counts, total, out=np.full(total.shape, np.nan), where=total != 0)
    return {"radcliq_v1_inverse": inverse, "radcliq_v1": total / counts}
