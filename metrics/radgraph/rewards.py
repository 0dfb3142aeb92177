"""RG_ER and the other RadGraph rewards (Delbrouck et al. 2022): F1 of two reports' entities and relations.

A RadGraph annotation has entities with tokens, a label and outgoing relations (Jain et al. 2021). Each becomes a set of
tuples, and the score of a pair is the F1 of the two sets. Definitions are those of the package ``radgraph``, whose
versions 0.0.9 to 0.1.18 agree; the mean of the F1 of entities and of relations is that of CXR-Report-Metric (Yu et al.
2023, https://github.com/rajpurkarlab/CXR-Report-Metric).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from metrics.annotations import AnnotatedMetric
from metrics.base import InputError, option
from metrics.radgraph.archive import ARCHIVES, Kind
from metrics.scores import Scores, mean_scores

if TYPE_CHECKING:
    from metrics.radgraph.model import RadGraphModel
    from metrics.radgraph.package import PackageRadGraph

Annotation = Mapping[str, Any]
Entities = list[tuple[str, str, list[tuple[str, str]]]]


def radgraph_f1(
    candidates: Sequence[Annotation],
    references: Sequence[Annotation],
    *,
    lower_case: bool = False,
    prefix: str = "rg",
    model: str = "given",
) -> Scores:
    """Score N pairs of annotations by RadGraph F1 at three levels, means over pairs.

    Args:
        candidates: N annotations, ``{"entities": {"1": {"tokens", "label", "relations": [[type, "2"], ...]}}}``.
        references: N annotations.
        lower_case: compare tokens without case; names then end in ``_lower``. The published package compares with
            case, a later version on GitHub without.
        prefix: beginning of all names.
        model: source of the annotations, for the signature.

    Returns:
        ``rg_e`` (entities with their labels), ``rg_er`` (also if they have a relation: the paper's), and
        ``rg_er_bar`` (relations with type and target). A pair with an empty graph on either side scores 0.

    Raises:
        InputError: if the lengths differ or an annotation is malformed.
    """
    import numpy as np

    end = "_lower" if lower_case else ""
    values: dict[str, list[float]] = {name: [] for name in LEVELS}
    for number, candidate, reference in _pairs(candidates, references):
        found, there = (_entities(graph, number, lower_case) for graph in (candidate, reference))
        for name, tuples in LEVELS.items():
            values[name].append(_f1(tuples(found), tuples(there)) if found and there else 0.0)
    case = "lower" if lower_case else "sensitive"
    return mean_scores(
        {prefix + name.removeprefix("rg") + end: np.array(column) for name, column in values.items()},
        f"{prefix}{end}|model:{model}|levels:simple,partial,complete|case:{case}|aggregate:mean",
    )


def radgraph_combined(
    candidates: Sequence[Annotation], references: Sequence[Annotation], *, model: str = "given"
) -> Scores:
    """Score N pairs of annotations by the F1 of entities, that of relations, and the mean of both; means over pairs.

    Args:
        candidates: N annotations, as of :func:`radgraph_f1`.
        references: N annotations.
        model: source of the annotations, for the signature.

    Returns:
        ``radgraph_entity_f1`` (tokens with their label), ``radgraph_relation_f1`` (both ends with tokens and label,
        and type), and ``radgraph_combined``. An F1 of which either side has nothing is 0.

    Raises:
        InputError: if the lengths differ or an annotation is malformed.
    """
    import numpy as np

    rows = []
    for number, candidate, reference in _pairs(candidates, references):
        (entities, relations), (there, relations_there) = (_sets(graph, number) for graph in (candidate, reference))
        rows.append((_f1(entities, there), _f1(relations, relations_there)))
    entity, relation = np.array(rows).T
    return mean_scores(
        {
            "radgraph_combined": (entity + relation) / 2,
            "radgraph_entity_f1": entity,
            "radgraph_relation_f1": relation,
        },
        f"radgraph_combined|model:{model}|mean:entities,relations|case:sensitive|aggregate:mean",
    )


def _pairs(
    candidates: Sequence[Annotation], references: Sequence[Annotation]
) -> Iterator[tuple[int, Annotation, Annotation]]:
    if len(candidates) != len(references) or not len(references):
        raise InputError(f"{len(candidates)} candidate and {len(references)} reference annotations")
    return zip(range(1, len(references) + 1), candidates, references, strict=True)


def _nodes(graph: Annotation, number: int) -> Mapping[str, Mapping[str, Any]]:
    """Return the entities of an annotation.

    Raises:
        InputError: if one has no tokens or label, or a relation has no type or target.
    """
    try:
        nodes: Mapping[str, Mapping[str, Any]] = graph["entities"]
        for node in nodes.values():
            relations = [(kind, target) for kind, target in node["relations"] if nodes[target]]
            words = [node["tokens"], node["label"], *(kind for kind, _ in relations)]
            if not all(isinstance(word, str) for word in words):
                raise TypeError
    except (KeyError, TypeError, AttributeError, ValueError):
        raise InputError(f"annotation number {number} is not a RadGraph annotation") from None
    return nodes


def _sets(graph: Annotation, number: int) -> tuple[set[Any], set[Any]]:
    """Return the entities of an annotation, and its relations between them."""
    nodes = _nodes(graph, number)
    named = {key: (node["tokens"], node["label"]) for key, node in nodes.items()}
    relations = {(named[key], named[target], kind) for key, node in nodes.items() for kind, target in node["relations"]}
    return set(named.values()), relations


def _entities(graph: Annotation, number: int, lower_case: bool) -> Entities:
    nodes = _nodes(graph, number)
    names = {key: node["tokens"].lower() for key, node in nodes.items()}
    return [
        (
            names[key] if lower_case else node["tokens"],
            node["label"],
            [(kind, names[target]) for kind, target in node["relations"]],
        )
        for key, node in nodes.items()
    ]


def _simple(entities: Entities) -> set[Any]:
    return {(tokens, label) for tokens, label, _ in entities}


def _partial(entities: Entities) -> set[Any]:
    return {(tokens, label, True) if relations else (tokens, label) for tokens, label, relations in entities}


def _complete(entities: Entities) -> set[Any]:
    """Return tuples as published: tokens without a relation keep their case, those with one lose it."""
    tuples: set[Any] = set()
    for tokens, label, relations in entities:
        tuples |= {(tokens.lower(), label, kind, target) for kind, target in relations} or {(tokens, label)}
    return tuples


LEVELS: dict[str, Callable[[Entities], set[Any]]] = {"rg_e": _simple, "rg_er": _partial, "rg_er_bar": _complete}


def _f1(found: set[Any], there: set[Any]) -> float:
    common = len(found & there)
    if not common:
        return 0.0
    precision, recall = common / len(found), common / len(there)
    return 2 * precision * recall / (precision + recall)


@dataclass(frozen=True)
class RadGraphOptions:
    """Options of RadGraph.

    Attributes:
        radgraph: RadGraph's archive, radgraph.tar.gz, or the folder that it unpacks to.
        radgraph_tokenizer: Folder of the archive's base model: config and tokenizer.
        radgraph_backend: Inference of this project, or of the package radgraph, which gives the same more slowly.
        radgraph_case: Compare tokens with their case (as published) or without.
    """

    radgraph: Path | None = option(None, metavar="PATH")
    radgraph_tokenizer: Path | None = option(None, metavar="DIR")
    radgraph_backend: Literal["own", "package"] = option("own")
    radgraph_case: Literal["sensitive", "lower"] = option("sensitive")


class RadGraphF1(AnnotatedMetric):
    """RadGraph F1 as a registered metric; the row is named after the paper's level.

    Attributes:
        prefix: beginning of the names of its scores.
    """

    kind = "radgraph"
    prefix: ClassVar[str] = "rg"
    nothing: ClassVar = {"entities": {}}
    summary = "RadGraph F1: rg_e, rg_er, rg_er_bar"
    citation = "Delbrouck, J.-B. et al. Improving the factual correctness of radiology report generation. 2022."
    options: ClassVar[tuple[type, ...]] = (RadGraphOptions,)
    weights: ClassVar = (ARCHIVES["radgraph"],)
    titles: ClassVar = {
        "rg_e": "RG_E",
        "rg_er": "RG_ER",
        "rg_er_bar": "RG_ER-bar",
        "rg_e_lower": "RG_E (lower case)",
        "rg_er_lower": "RG_ER (lower case)",
        "rg_er_bar_lower": "RG_ER-bar (lower case)",
    }
    leading: ClassVar[tuple[str, ...]] = ("rg_er", "rg_e", "rg_er_bar")

    @property
    def archive(self) -> tuple[Kind, Path | None, Path | None]:
        """Published model, its archive, and the folder of its base model."""
        own = self.settings.of(RadGraphOptions)
        return "radgraph", own.radgraph, own.radgraph_tokenizer

    def load(self) -> RadGraphModel | PackageRadGraph:
        """Load the model.

        Raises:
            WeightsError: if a file is missing, damaged, or of another model.
            MetricError: if the package is chosen and not installed.
        """
        settings = self.settings
        model, path, tokenizer = self.archive
        if settings.of(RadGraphOptions).radgraph_backend == "package":
            from metrics.radgraph.package import PackageRadGraph

            return PackageRadGraph(path, model=model, tokenizer=tokenizer, allow_download=settings.allow_download)
        from metrics.radgraph.model import RadGraphModel

        return RadGraphModel.load(
            path,
            model=model,
            tokenizer=tokenizer,
            device=settings.device,
            precision=settings.precision,
            allow_download=settings.allow_download,
        )

    def of_annotations(self, candidates: Sequence[Any], references: Sequence[Any]) -> Scores:
        """Score N annotations of candidates against N of references; see :func:`radgraph_f1`."""
        lower = self.settings.of(RadGraphOptions).radgraph_case == "lower"
        return radgraph_f1(candidates, references, lower_case=lower, prefix=self.prefix, model=self.identity)

    def pack(self, annotation: Any) -> Any:
        """Return an annotation without any word of the report; see :func:`metrics.radgraph.model.pack`."""
        from metrics.radgraph.model import pack

        return pack(annotation)

    def unpack(self, text: str, packed: Any) -> Any:
        """Return the annotation of a text; see :func:`metrics.radgraph.model.unpack`."""
        from metrics.radgraph.model import unpack

        return unpack(text, packed, self.archive[0])


class RadGraphCombined(RadGraphF1):
    """Mean of the F1 of entities and of relations as a registered metric; its graphs are those of ``rg_er``."""

    summary = "RadGraph F1 of CXR-Report-Metric and ReXrank: mean of the F1 of entities and of relations"
    citation = "Yu, F. et al. Evaluating progress in automatic chest X-ray radiology report generation. 2023."
    titles: ClassVar = {
        "radgraph_combined": "RadGraph F1 (combined)",
        "radgraph_entity_f1": "RadGraph F1 (entities)",
        "radgraph_relation_f1": "RadGraph F1 (relations)",
    }
    leading = ()

    def of_annotations(self, candidates: Sequence[Any], references: Sequence[Any]) -> Scores:
        """Score N annotations of candidates against N of references; see :func:`radgraph_combined`."""
        return radgraph_combined(candidates, references, model=self.identity)


@dataclass(frozen=True)
class RadGraphXLOptions:
    """Files of RadGraph-XL.

    Attributes:
        radgraph_xl: RadGraph-XL's archive, radgraph-xl.tar.gz, or the folder that it unpacks to.
        radgraph_xl_tokenizer: Folder of that archive's base model: config and tokenizer.
    """

    radgraph_xl: Path | None = option(None, metavar="PATH")
    radgraph_xl_tokenizer: Path | None = option(None, metavar="DIR")


class RadGraphXLF1(RadGraphF1):
    """RadGraph F1 by the graphs of RadGraph-XL as a registered metric, beside those of another model."""

    kind = "radgraph_xl"
    prefix = "rg_xl"
    summary = "RadGraph F1 by RadGraph-XL: rg_xl_e, rg_xl_er, rg_xl_er_bar"
    citation = "Delbrouck, J.-B. et al. RadGraph-XL: A large-scale expert-annotated dataset. 2024."
    options: ClassVar = (RadGraphXLOptions, RadGraphOptions)
    weights: ClassVar = (ARCHIVES["radgraph-xl"],)
    titles: ClassVar = {
        name.replace("rg", "rg_xl", 1): text.replace("RG", "RG-XL") for name, text in RadGraphF1.titles.items()
    }
    headline = "rg_xl_er"
    leading = ("rg_xl_er", "rg_xl_e", "rg_xl_er_bar")

    @property
    def archive(self) -> tuple[Kind, Path | None, Path | None]:
        """Published model, its archive, and the folder of its base model."""
        own = self.settings.of(RadGraphXLOptions)
        return "radgraph-xl", own.radgraph_xl, own.radgraph_xl_tokenizer
