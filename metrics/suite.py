"""Many metrics on the same reports: models loaded once, each text annotated once, every score with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from metrics import annotators
from metrics.annotators import Annotator, Given, Report
from metrics.bootstrap import Bootstrap, Interval
from metrics.cache import Cache
from metrics.errors import InputError, MetricError
from metrics.settings import BLEU, ROUGE, Settings, checked_metrics
from metrics.strata import Strata, by_group
from metrics.texts import R2GEN_TOKENS, r2gen_clean

if TYPE_CHECKING:
    from metrics.scores import Scores


@dataclass(frozen=True)
class Pairs:
    """N predictions beside N references.

    Attributes:
        ids: in the order of the references.
        candidates: generated texts.
        references: texts.
        strata: values of each report by column name.
    """

    ids: list[str]
    candidates: list[str]
    references: list[str]
    strata: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class NotComputed:
    """Why a metric has no value, and what to do about it."""

    reason: str
    cure: str | None


@dataclass(frozen=True)
class Model:
    """What was found of one set of predictions.

    Attributes:
        name: what tables call it.
        scores: by metric.
        intervals: by score.
        strata: by column, then by score.
    """

    name: str
    scores: dict[str, Scores]
    intervals: dict[str, Interval]
    strata: dict[str, dict[str, Strata]] = field(default_factory=dict)

    @property
    def positives(self) -> dict[str, int]:
        """Positive reference labels behind a score, for those that depend on labels."""
        return {
            name: count
            for scores in self.scores.values()
            for name, count in scores.positives(scores.statistics.sum(axis=0)).items()
        }


@dataclass(frozen=True)
class Evaluation:
    """The whole result.

    Attributes:
        ids: of the reports.
        models: the predictions, then those they are compared with.
        differences: the first model's scores minus another's, by that one's name.
        not_computed: by metric.
        signatures: by metric.
        bootstrap: how intervals were made.
        warnings: what a reader of the scores should know.
        annotations: raw labels and graphs by kind: those of the first model's N predictions, then of the references.
    """

    ids: list[str]
    models: list[Model]
    differences: dict[str, dict[str, Interval]]
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
) -> Evaluation:
    """Score predictions.

    Args:
        models: pairs by name, all with the same ids and references; the first is compared with the others.
        settings: which metrics.
        bootstrap: how to resample.
        cache: of annotations.
        given: annotations that take the place of a model's, by kind (``chexbert``, ``radgraph``), and then by side
            (``prediction`` of the first model, ``reference``) and id.
        report: from a name and a number of texts to what is called with the number of texts done.
        say: called with each metric that cannot be computed, before the long work begins.

    Raises:
        InputError: nothing to score, an unknown metric, models of different reports.
    """
    names = checked_metrics(settings.metrics)
    first = next(iter(models.values()))
    if any(pairs.ids != first.ids or pairs.references != first.references for pairs in models.values()):
        raise InputError("models can be compared on the same reports only")
    if settings.clean == "r2gen":
        if given:
            raise InputError("annotations belong to texts as they are: they do not go with cleaned ones")
        models = {name: _cleaned(pairs) for name, pairs in models.items()}
        first = next(iter(models.values()))
    bootstrap = bootstrap or Bootstrap()
    not_computed: dict[str, NotComputed] = {}
    ready: dict[str, Callable[[Pairs], Scores]] = {}
    used: list[Annotator] = []
    for name in names:
        try:
            ready[name] = _prepare(name, settings, given or {}, cache, report, used, first)
        except InputError:
            raise
        except MetricError as error:
            not_computed[name] = NotComputed(str(error), error.hint)
            say(f"{name} will not be computed: {error}")

    results: dict[str, dict[str, Scores]] = {model: {} for model in models}
    for name, compute in ready.items():
        try:
            for model, pairs in models.items():
                results[model][name] = compute(pairs)
        except InputError:
            raise
        except MetricError as error:
            not_computed[name] = NotComputed(str(error), error.hint)
            for scores in results.values():
                scores.pop(name, None)

    weights = bootstrap.weights(len(first.ids))
    found = [
        Model(
            model,
            scores,
            {key: value for one in scores.values() for key, value in bootstrap.intervals(one, weights).items()},
            {
                column: {
                    key: value for one in scores.values() for key, value in by_group(one, groups, bootstrap).items()
                }
                for column, groups in models[model].strata.items()
            },
        )
        for model, scores in results.items()
    ]
    differences = {
        other.name: {
            key: value
            for name in other.scores
            for key, value in bootstrap.differences(found[0].scores[name], other.scores[name], weights).items()
        }
        for other in found[1:]
    }
    return Evaluation(
        first.ids,
        found,
        differences,
        not_computed,
        {
            name: f"{scores.signature}|clean:{settings.clean}|version:{version('llava-rad')}"
            for name, scores in found[0].scores.items()
        },
        bootstrap,
        [note for annotator in used for note in annotator.notes()],
        {annotator.kind: annotator.first for annotator in used if annotator.first},
    )


def _cleaned(pairs: Pairs) -> Pairs:
    return replace(
        pairs,
        candidates=[r2gen_clean(text) for text in pairs.candidates],
        references=[r2gen_clean(text, R2GEN_TOKENS) for text in pairs.references],
    )


def _prepare(
    name: str,
    settings: Settings,
    given: Given,
    cache: Cache | None,
    report: Report | None,
    used: list[Annotator],
    first: Pairs,
) -> Callable[[Pairs], Scores]:
    """Everything that can fail before the work begins."""
    if name in ROUGE:
        from metrics.rouge import rouge_l

        return lambda pairs: rouge_l(pairs.candidates, pairs.references, variant=name)  # type: ignore[arg-type]
    if name in BLEU:
        from metrics.bleu import bleu_4

        return lambda pairs: bleu_4(pairs.candidates, pairs.references, variant=name)  # type: ignore[arg-type]
    if name == "bertscore":
        from metrics.bertscore import MODEL, BERTScore

        scorer = BERTScore(
            settings.bertscore_model or MODEL,
            layers=settings.bertscore_layers,
            baseline=settings.bertscore_baseline,
            device=settings.device,
            allow_download=settings.allow_download,
        )
        return lambda pairs: scorer.score(pairs.candidates, pairs.references)

    annotator = {"chexbert": annotators.chexbert, "rules": annotators.rules, "rg_er": annotators.radgraph}[name](
        settings, given
    )
    used.append(annotator)

    def both(pairs: Pairs) -> tuple[list[Any], list[Any]]:
        side = "prediction" if pairs is first else ""  # of the others no annotations are given
        keys = [(of, key) for of in (side, "reference") for key in pairs.ids]
        values = annotator(keys, [*pairs.candidates, *pairs.references], cache, report)
        if pairs is first:
            annotator.first = values
        return values[: len(pairs.ids)], values[len(pairs.ids) :]

    if name == "rg_er":
        from metrics.radgraph.rewards import radgraph_f1

        lower = settings.radgraph_case == "lower"
        return lambda pairs: radgraph_f1(*both(pairs), lower_case=lower, model=annotator.identity)

    from metrics.f1 import label_f1

    return lambda pairs: label_f1(
        *both(pairs), uncertain=settings.uncertain, prefix=f"{name}_", labeler=annotator.identity
    )
