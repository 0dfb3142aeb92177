"""Where labels and graphs of reports come from: what is given, the cache on disk, or a model; each text once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from metrics.cache import Cache, Progress, annotate
from metrics.errors import InputError, MetricError
from metrics.labels import refuse_constant

if TYPE_CHECKING:
    from metrics.settings import Settings

Report = Callable[[str, int], Progress]
Run = Callable[[list[str]], Any]
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


def chexbert(settings: Settings, given: Given) -> Annotator:
    """CheXbert's labels.

    Raises:
        MetricError: its weights cannot be had, and no labels are given.
    """
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


def rules(settings: Settings, given: Given) -> Annotator:
    """Labels by phrases, which are never given."""
    from metrics.rules.labeler import label, weights_id

    def run(texts: list[str]) -> Any:
        for text in texts:
            yield [list(label(text))]

    return Annotator("rules", weights_id(), run, cached=False)


def radgraph(settings: Settings, given: Given) -> Annotator:
    """RadGraph's annotations.

    Raises:
        MetricError: its weights cannot be had, and no annotations are given.
    """
    from metrics.radgraph.model import RadGraphModel, pack, unpack
    from metrics.radgraph.package import PackageRadGraph

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
