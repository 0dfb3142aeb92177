"""Registered metrics as modules of the ``evaluate`` library, without the hub; ``evaluate.combine`` takes them too.

``evaluate.load`` would fetch code from the hub, and its ROUGE gives the median of unseeded resamples; :func:`load` here
gives the scores of :mod:`metrics`. Texts stay in memory: unlike the library's default, nothing is written to its cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import datasets
import evaluate

from metrics import registry
from metrics.base import Metric, Settings
from metrics.labels import label_f1

if TYPE_CHECKING:
    from metrics.scores import Scores

_TEXT = datasets.Value("string")
_LABELS = datasets.Sequence(datasets.Value("int64"))


class _Module(evaluate.Metric):  # type: ignore[misc]
    """A metric of N predictions and N references.

    ``compute(predictions=..., references=..., per_sample=True)`` adds the value of each report as a list under
    ``<name>_per_sample``. After a computation ``signature`` holds the choices that the numbers depend on.
    """

    feature: Any = _TEXT
    summary = ""
    citation_text = ""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)
        self.signature: str | None = None

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=self.summary,
            citation=self.citation_text,
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


class ReportMetric(_Module):
    """A registered metric of texts; see :func:`load`."""

    def __init__(self, name: str, settings: Settings) -> None:
        kind = registry.load(name)
        self.summary, self.citation_text = kind.summary, kind.citation
        super().__init__()
        self._row, self._settings = name, settings

    @cached_property
    def metric(self) -> Metric:
        """The metric; its model is loaded at the first computation."""
        return registry.load(self._row)(self._row, self._settings)

    def _scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> Scores:
        return self.metric.scores(predictions, references)


class LabelF1(_Module):
    """F1 of labels that are given as rows of 14 codes; options of ``compute`` as of :func:`metrics.labels.label_f1`."""

    feature = _LABELS
    summary = "macro and micro F1 of the 14 CheXpert observations"

    def _scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> Scores:
        return label_f1(predictions, references, **options)


def load(name: str, **options: Any) -> ReportMetric:
    """Return a registered metric as an ``evaluate.Metric``.

    Args:
        name: name of the metric, as of ``--metrics``.
        options: fields of :class:`metrics.base.Settings` and of the metric's own options, as of the command line.

    Raises:
        InputError: if there is no such metric or option.
    """
    common = {one.name for one in dataclasses.fields(Settings)} & options.keys()
    own = {key: value for key, value in options.items() if key not in common}
    registry.check_options(own)
    return ReportMetric(name, Settings((name,), options=own, **{key: options[key] for key in common}))
