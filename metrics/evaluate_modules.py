"""The metrics as ``evaluate.Metric``s: made and computed without any hub, also by ``evaluate.combine``.

``evaluate.load`` would fetch code from the hub, and its ROUGE gives the median of unseeded resamples; these give what
:mod:`metrics` gives. Texts stay in memory: unlike the library's own default, nothing is written to its cache folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import datasets
import evaluate

from metrics.bleu import bleu_4
from metrics.f1 import label_f1
from metrics.radgraph.rewards import radgraph_f1
from metrics.rouge import rouge_l

if TYPE_CHECKING:
    from metrics.bertscore import BERTScore
    from metrics.chexbert import CheXbert
    from metrics.radgraph.model import RadGraphModel
    from metrics.scores import Scores

_TEXT = datasets.Value("string")
_LABELS = datasets.Sequence(datasets.Value("int64"))


class ReportMetric(evaluate.Metric):  # type: ignore[misc]
    """A metric of N predictions and N references.

    ``compute(predictions=..., references=..., per_sample=True)`` adds the value of each report as a list under
    ``<name>_per_sample``; ``signature`` holds the choices that the numbers depend on, after a computation.
    """

    feature: Any = _TEXT
    description = ""
    citation = ""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **options})
        self.signature: str | None = None

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=self.description,
            citation=self.citation,
            inputs_description="predictions and references: lists of the same length",
            features=datasets.Features({"predictions": self.feature, "references": self.feature}),
        )

    def _scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> Scores:
        raise NotImplementedError

    def _compute(
        self, predictions: Sequence[Any], references: Sequence[Any], *, per_sample: bool = False, **options: Any
    ) -> dict[str, Any]:
        scores = self._scores(list(predictions), list(references), **options)
        self.signature = scores.signature
        result: dict[str, Any] = scores.point()
        if per_sample:
            result |= {f"{name}_per_sample": values.tolist() for name, values in scores.per_sample.items()}
        return result


class RougeL(ReportMetric):
    """ROUGE-L; options as :func:`metrics.rouge.rouge_l`."""

    description = "ROUGE-L F-measure, mean over reports"
    citation = "Lin, C.-Y. ROUGE: A package for automatic evaluation of summaries. 2004."

    def _scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> Scores:
        return rouge_l(predictions, references, **options)


class Bleu4(ReportMetric):
    """BLEU-4 of the corpus; options as :func:`metrics.bleu.bleu_4`."""

    description = "corpus BLEU-4, between 0 and 1"
    citation = "Papineni, K. et al. BLEU: a method for automatic evaluation of machine translation. 2002."

    def _scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> Scores:
        return bleu_4(predictions, references, **options)


class LabelF1(ReportMetric):
    """F1 of labels that are there already; options as :func:`metrics.f1.label_f1`."""

    feature = _LABELS
    description = "macro and micro F1 of the 14 CheXpert observations"
    citation = "Smit, A. et al. CheXbert. 2020."

    def _scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> Scores:
        return label_f1(predictions, references, **options)


class CheXbertF1(ReportMetric):
    """F1 of CheXbert's labels.

    Args:
        model: arguments of :class:`metrics.chexbert.CheXbert`; read at the first computation.
        options: of ``evaluate.Metric``.
    """

    description = "macro and micro F1 of CheXbert's labels; uncertain counts as negative"
    citation = "Smit, A. et al. CheXbert. 2020."

    def __init__(self, *, model: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._model = model or {}

    @cached_property
    def labeler(self) -> CheXbert:
        """The model."""
        from metrics.chexbert import CheXbert

        return CheXbert(**self._model)

    def _scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> Scores:
        labels = self.labeler.label([*predictions, *references])
        options = {"prefix": "chexbert_", "labeler": f"chexbert:{self.labeler.weights_id}", **options}
        return label_f1(labels[: len(predictions)], labels[len(predictions) :], **options)


class RulesF1(ReportMetric):
    """F1 of the labels of our own rules, which are not CheXbert's."""

    description = "macro and micro F1 of the labels of phrase rules"

    def _scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> Scores:
        from metrics.rules import labeler as rules

        options = {"prefix": "rules_", "labeler": rules.weights_id(), **options}
        return label_f1(rules.label_all(predictions), rules.label_all(references), **options)


class RadGraphF1(ReportMetric):
    """RG_ER and the other RadGraph levels.

    Args:
        model: arguments of :meth:`metrics.radgraph.model.RadGraphModel.load`; read at the first computation.
        options: of ``evaluate.Metric``.
    """

    description = "RadGraph F1: rg_e, rg_er, rg_er_bar"
    citation = "Delbrouck, J.-B. et al. Improving the factual correctness of radiology report generation. 2022."

    def __init__(self, *, model: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._model = model or {}

    @cached_property
    def annotator(self) -> RadGraphModel:
        """The model."""
        from metrics.radgraph.model import RadGraphModel

        return RadGraphModel.load(**self._model)

    def _scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> Scores:
        graphs = self.annotator.annotate([*predictions, *references])
        options = {"model": self.annotator.weights_id, **options}
        return radgraph_f1(graphs[: len(predictions)], graphs[len(predictions) :], **options)


class BERTScoreF1(ReportMetric):
    """BERTScore.

    Args:
        model: arguments of :class:`metrics.bertscore.BERTScore`; read at the first computation.
        options: of ``evaluate.Metric``.
    """

    description = "BERTScore precision, recall and F1, means over reports"
    citation = "Zhang, T. et al. BERTScore: Evaluating text generation with BERT. 2020."

    def __init__(self, *, model: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._model = model or {}

    @cached_property
    def scorer(self) -> BERTScore:
        """The model."""
        from metrics.bertscore import BERTScore

        return BERTScore(**self._model)

    def _scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> Scores:
        return self.scorer.score(predictions, references)
