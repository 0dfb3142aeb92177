"""Evaluation of reports by several metrics: models are loaded once, texts annotated once, scores have intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from metrics import registry
from metrics.annotations import AnnotatedMetric, Given
from metrics.base import InputError, Metric, MetricError, Report, Settings
from metrics.bootstrap import Bootstrap, Difference, Interval, corrected
from metrics.cache import Cache
from metrics.combined import CombinedMetric
from metrics.scores import alike
from metrics.strata import Strata, by_group

if TYPE_CHECKING:
    from metrics.scores import Scores

R2GEN_TOKENS = 60
"""Length to which papers on IU X-ray cut their references."""
_REMOVED = str.maketrans("", "", ".,?;*!%^&_+():<=>@[]{}\"/\\'")
"""Characters that R2Gen removes. In its pattern ``:-\\[`` is a range: ``<=>@`` go, the hyphen stays."""


@dataclass(frozen=True)
class Pairs:
    """N predictions with N references.

    Attributes:
        ids: ids of the reports, in the order of the references.
        candidates: N generated texts.
        references: N reference texts.
        strata: group of each report, by column name.
        patients: patient of each report, "" if that one is unknown; empty if none is known.
        context: columns of what is known of the patients: "age" in years, "indication"; "" is unknown.
    """

    ids: list[str]
    candidates: list[str]
    references: list[str]
    strata: dict[str, list[str]] = field(default_factory=dict)
    patients: list[str] = field(default_factory=list)
    context: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class NotComputed:
    """A metric without a value.

    Attributes:
        reason: why it could not be computed.
        cure: advice on what to do, or None.
    """

    reason: str
    cure: str | None


@dataclass(frozen=True)
class Model:
    """Results of one set of predictions.

    Attributes:
        name: name in tables.
        scores: by metric.
        intervals: by score; reports are resampled, as in the paper.
        by_patient: by score; patients are resampled with all their reports.
        strata: by column, then by score.
    """

    name: str
    scores: dict[str, Scores]
    intervals: dict[str, Interval]
    by_patient: dict[str, Interval]
    strata: dict[str, dict[str, Strata]] = field(default_factory=dict)

    @property
    def positives(self) -> dict[str, int]:
        """Numbers of positive reference labels behind the scores that depend on labels."""
        return {
            name: count
            for scores in self.scores.values()
            for name, count in scores.positives(scores.statistics.sum(axis=0)).items()
        }


@dataclass(frozen=True)
class Evaluation:
    """Results of an evaluation.

    Attributes:
        ids: ids of the N reports.
        models: results of the predictions, then of those that they are compared with.
        differences: scores of the first model minus those of another, by the other's name.
        patients: number of patients; None if no patient is known, so that each report counts as one of its own.
        not_computed: metrics without a value, by name.
        signatures: choices that the numbers depend on, by metric.
        bootstrap: settings of the intervals.
        warnings: remarks for a reader of the scores.
        annotations: labels and graphs by kind: of the first model's N predictions, then of the N references.
    """

    ids: list[str]
    models: list[Model]
    differences: dict[str, dict[str, Difference]]
    patients: int | None
    not_computed: dict[str, NotComputed]
    signatures: dict[str, str]
    bootstrap: Bootstrap
    warnings: list[str]
    annotations: dict[str, list[Any]]


def evaluate(
    models: Mapping[str, Pairs],
    settings: Settings,
    *,
    bootstrap: Bootstrap | None = None,
    cache: Cache | None = None,
    given: Given | None = None,
    report: Report | None = None,
    say: Callable[[str], None] = lambda message: None,
    compare: bool = True,
) -> Evaluation:
    """Score predictions.

    Args:
        models: pairs by name, all with the same ids and references; the first is compared with the others.
        settings: metrics and their options.
        bootstrap: settings of the intervals.
        cache: annotations of earlier runs.
        given: annotations that replace a model's; of the predictions, those of the first model.
        report: called with a name and a number of texts; returns the function that is called with the number done.
        say: called with each metric that cannot be computed, before the long work begins.
        compare: compute the differences of the first model and the others.

    Raises:
        InputError: if there is nothing to score, a metric or option is unknown, or models have different reports.
    """
    names = registry.checked_metrics(settings.metrics)
    registry.check_options(settings.options)
    first = next(iter(models.values()))
    if any(pairs.ids != first.ids or pairs.references != first.references for pairs in models.values()):
        raise InputError("models can be compared on the same reports only")
    if settings.clean == "r2gen":
        if given:
            raise InputError("annotations belong to texts as they are: they do not go with cleaned ones")
        models = {name: _cleaned(pairs) for name, pairs in models.items()}
        first = next(iter(models.values()))
    settings = replace(settings)  # models are kept as long as this evaluation
    bootstrap = bootstrap or Bootstrap()
    not_computed: dict[str, NotComputed] = {}
    loaded: dict[str, Metric] = {}
    ready: list[str] = []
    for name in names:
        try:
            _load(name, settings, given or {}, loaded)
            ready.append(name)
        except InputError:
            raise
        except MetricError as error:
            not_computed[name] = NotComputed(str(error), error.hint)
            say(f"{name} will not be computed: {error}")

    annotations: dict[str, list[Any]] = {}

    def compute(metric: Metric, pairs: Pairs) -> Scores:
        if not isinstance(metric, AnnotatedMetric):
            return metric.scores_in_context(pairs.candidates, pairs.references, pairs.context)
        side = "prediction" if pairs is first else ""  # annotations are given of the first model only
        keys = [(of, key) for of in (side, "reference") for key in pairs.ids]
        texts = [*pairs.candidates, *pairs.references]
        values = metric.annotations(texts, keys=keys, cache=cache, report=report)
        if pairs is first:
            annotations[metric.kind] = values
        return metric.of_annotations(values[: len(pairs.ids)], values[len(pairs.ids) :])

    computed: dict[tuple[str, str], Scores] = {}

    def score(name: str, model: str) -> Scores:
        if (name, model) not in computed:
            metric = loaded[name]
            metric.cache, metric.report = cache, report
            computed[name, model] = (
                metric.combine({part: score(part, model) for part in metric.parts})
                if isinstance(metric, CombinedMetric)
                else compute(metric, models[model])
            )
        return computed[name, model]

    results: dict[str, dict[str, Scores]] = {model: {} for model in models}
    for name in ready:
        try:
            for model, scores in zip(models, alike([score(name, model) for model in models]), strict=True):
                results[model][name] = scores
        except InputError:
            raise
        except MetricError as error:
            not_computed[name] = NotComputed(str(error), error.hint)

    weights = bootstrap.weights(len(first.ids))
    names_of = next((pairs.patients for pairs in models.values() if any(pairs.patients)), [""] * len(first.ids))
    patients = bootstrap.patients(names_of)

    def results_of(model: str, scores: dict[str, Scores]) -> Model:
        intervals: dict[str, Interval] = {}
        by_patient: dict[str, Interval] = {}
        strata: dict[str, dict[str, Strata]] = {column: {} for column in models[model].strata}
        for one in scores.values():
            intervals |= bootstrap.intervals(one, weights)
            by_patient |= bootstrap.by_patient(one, patients)
            for column, groups in models[model].strata.items():
                strata[column] |= by_group(one, groups, bootstrap, names_of, settings.min_group)
        return Model(model, scores, intervals, by_patient, strata)

    found = [results_of(model, scores) for model, scores in results.items()]
    others = found[1:] if compare else []
    tables: list[dict[str, Difference]] = [{} for _ in others]
    for table, other in zip(tables, others, strict=True):
        for name, one in other.scores.items():
            table |= bootstrap.differences(found[0].scores[name], one, patients)
    return Evaluation(
        first.ids,
        found,
        {other.name: table for other, table in zip(others, corrected(tables), strict=True)},
        len(patients) if any(names_of) else None,
        not_computed,
        {
            name: f"{scores.signature}|clean:{settings.clean}|version:{version('llava-rad')}"
            for name, scores in found[0].scores.items()
        },
        bootstrap,
        list(dict.fromkeys(note for one in loaded.values() for note in one.warnings)),
        annotations,
    )


def _cleaned(pairs: Pairs) -> Pairs:
    return replace(
        pairs,
        candidates=[r2gen_clean(text) for text in pairs.candidates],
        references=[r2gen_clean(text, R2GEN_TOKENS) for text in pairs.references],
    )


def _load(name: str, settings: Settings, given: Given, loaded: dict[str, Metric]) -> None:
    """Make a metric and its parts; everything that can fail before the work begins fails here."""
    kind = registry.load(name)
    for part in kind.parts if issubclass(kind, CombinedMetric) else ():
        _load(part, settings, given, loaded)
    if name not in loaded:
        if issubclass(kind, AnnotatedMetric):
            loaded[name] = kind(name, settings, given.get(kind.kind) if kind.kept else None)
        else:
            loaded[name] = kind(name, settings)


def r2gen_clean(text: str, max_tokens: int | None = None) -> str:
    """Clean a text as R2Gen does (Chen et al. 2020): lower case, no punctuation, sentences joined by " . ".

    R2Gen also cuts references: at :data:`R2GEN_TOKENS` for IU X-ray. With ``rouge_l_coco`` and ``bleu_4_coco`` this
    gives the numbers that papers compare. Its substitutions (``clean_report_iu_xray``) are followed as they are: a
    sentence ends at a full stop and a space, the numbers 1 to 5 of a list go, "2.5" becomes "25". Not done: rare words
    of references become ``<unk>`` there, by a vocabulary of the training set.
    """
    for _ in range(3):
        text = text.replace("..", ".")
    text = text.replace("1. ", "")
    for begin in (". ", " "):
        for number in "2345":
            text = text.replace(f"{begin}{number}. ", ". ")
    sentences = (part.translate(_REMOVED) for part in text.strip().lower().split(". "))
    return " ".join((" . ".join(sentences) + " .").split()[:max_tokens])
