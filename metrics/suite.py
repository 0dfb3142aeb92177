"""Many metrics on the same reports: models loaded once, each text annotated once, every score with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from metrics.bootstrap import Bootstrap, Interval
from metrics.cache import Cache, Progress, annotate
from metrics.errors import InputError, MetricError
from metrics.labels import refuse_constant
from metrics.pairs import Pairs
from metrics.strata import Strata, by_group
from metrics.texts import R2GEN_TOKENS, r2gen_clean

if TYPE_CHECKING:
    from metrics.f1 import Uncertain
    from metrics.scores import Scores

PAPER: Final = ("rouge_l", "bleu_4", "rg_er", "chexbert")
ROUGE: Final = ("rouge_l", "rouge_l_stem", "rouge_l_coco")
BLEU: Final = ("bleu_4", "bleu_4_lower", "bleu_4_nosmooth", "bleu_4_coco")
METRICS: Final = (*ROUGE, *BLEU, "rg_er", "chexbert", "rules", "bertscore")

Report = Callable[[str, int], Progress]
Run = Callable[[list[str]], Any]


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


Key = tuple[str, str]
Given = Mapping[str, Mapping[Key, Any]]


@dataclass
class Annotator:
    """Labels or graphs of texts, from what is given, from the cache, or from a model.

    Attributes:
        kind: ``chexbert``, ``rules`` or ``radgraph``.
        identity: of weights and settings: part of the signature and of the cache's keys.
        run: the model; None where all annotations are given.
        given: by side (``prediction`` of the first model, ``reference``) and id: equal texts may have other labels.
        pack: from an annotation to what is cached.
        unpack: from a text and what is cached to the annotation.
        notes: what a reader of the scores should know.
        cached: whether keeping it on disk is worth it.
        known: annotations made so far, by text.
        first: of the first model's predictions and of the references.
    """

    kind: str
    identity: str
    run: Run | None
    given: Mapping[Key, Any] = field(default_factory=dict)
    pack: Callable[[Any], Any] = lambda value: value
    unpack: Callable[[str, Any], Any] = lambda text, value: value
    notes: Callable[[], Sequence[str]] = lambda: ()
    cached: bool = True
    known: dict[str, Any] = field(default_factory=dict)
    first: list[Any] = field(default_factory=list)

    def __call__(
        self, keys: Sequence[Key], texts: Sequence[str], cache: Cache | None, report: Report | None
    ) -> list[Any]:
        """Annotations of N texts."""
        both = list(zip(keys, texts, strict=True))
        missing = [text for key, text in both if key not in self.given and text not in self.known]
        if missing:
            run = self.run
            if run is None:
                raise InputError(f"{len(missing)} reports have no {self.kind} annotation among those given")
            packed = annotate(
                missing,
                lambda some: ([self.pack(value) for value in portion] for portion in run(some)),
                model=self.identity,
                cache=cache if self.cached else None,
                progress=report(self.kind, len(set(missing))) if report else None,
            )
            self.known |= {text: self.unpack(text, value) for text, value in zip(missing, packed, strict=True)}
            refuse_constant(missing, packed, self.kind)
        return [self.given[key] if key in self.given else self.known[text] for key, text in both]


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

    annotator = {"chexbert": _chexbert, "rules": _rules, "rg_er": _radgraph}[name](settings, given)
    used.append(annotator)

    def both(pairs: Pairs) -> tuple[list[Any], list[Any]]:
        side = "prediction" if pairs is first else ""  # of the others no annotations are given
        keys = [(of, key) for of in (side, "reference") for key in pairs.ids]
        values = annotator(keys, [*pairs.candidates, *pairs.references], cache, report)
        if pairs is first:
            annotator.first = values
        return values[: len(pairs.ids)], values[len(pairs.ids) :]

    if name == "rg_er":
        from metrics.radgraph import radgraph_f1

        lower = settings.radgraph_case == "lower"
        return lambda pairs: radgraph_f1(*both(pairs), lower_case=lower, model=annotator.identity)

    from metrics.f1 import label_f1

    return lambda pairs: label_f1(
        *both(pairs), uncertain=settings.uncertain, prefix=f"{name}_", labeler=annotator.identity
    )


def _chexbert(settings: Settings, given: Given) -> Annotator:
    try:
        from metrics.chexbert import CheXbert

        labeler = CheXbert(
            settings.chexbert,
            vocabulary=settings.bert_vocab,
            device=settings.device,
            precision=settings.precision,
            allow_download=settings.allow_download,
        )
    except MetricError:
        if "chexbert" not in given:
            raise
        return Annotator("chexbert", "chexbert:given", None, given["chexbert"])
    return Annotator(
        "chexbert",
        f"chexbert:{labeler.weights_id}{'+given' if given.get('chexbert') else ''}",
        lambda texts: labeler.portions(texts, batch_size=settings.batch_size),
        given.get("chexbert", {}),
        notes=lambda: labeler.warnings,
    )


def _rules(settings: Settings, given: Given) -> Annotator:
    from metrics import rules

    def run(texts: list[str]) -> Any:
        for text in texts:
            yield [list(rules.label(text))]

    return Annotator("rules", rules.weights_id(), run, cached=False)


def _radgraph(settings: Settings, given: Given) -> Annotator:
    from metrics.radgraph_model import RadGraphModel, pack, unpack
    from metrics.radgraph_package import PackageRadGraph

    model: RadGraphModel | PackageRadGraph
    try:
        if settings.radgraph_backend == "package":
            model = PackageRadGraph(
                settings.radgraph,
                model=settings.radgraph_model,
                tokenizer=settings.radgraph_tokenizer,
                allow_download=settings.allow_download,
            )
        else:
            model = RadGraphModel.load(
                settings.radgraph,
                model=settings.radgraph_model,
                tokenizer=settings.radgraph_tokenizer,
                device=settings.device,
                precision=settings.precision,
                allow_download=settings.allow_download,
            )
    except MetricError:
        if "radgraph" not in given:
            raise
        return Annotator("radgraph", "radgraph:given", None, given["radgraph"])
    return Annotator(
        "radgraph",
        f"{model.weights_id}{'+given' if given.get('radgraph') else ''}",
        lambda texts: model.portions(texts, batch_size=settings.batch_size),
        given.get("radgraph", {}),
        pack,
        lambda text, value: unpack(text, value, settings.radgraph_model),
    )
