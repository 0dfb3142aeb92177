"""RG_ER and the other RadGraph rewards (Delbrouck et al. 2022): F1 of two reports' entities and relations.

A RadGraph annotation has entities with tokens, a label and outgoing relations (Jain et al. 2021). Each becomes a set of
tuples, and the score of a pair is the F1 of the two sets. Definitions are those of the package ``radgraph``, whose
versions 0.0.9 to 0.1.18 agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from metrics.errors import InputError
from metrics.scores import Scores, mean_scores

Annotation = Mapping[str, Any]
Entities = list[tuple[str, str, list[tuple[str, str]]]]


def radgraph_f1(
    candidates: Sequence[Annotation],
    references: Sequence[Annotation],
    *,
    lower_case: bool = False,
    model: str = "given",
) -> Scores:
    """RadGraph F1 at three levels, mean over N pairs.

    Args:
        candidates: N annotations, ``{"entities": {"1": {"tokens", "label", "relations": [[type, "2"], ...]}}}``.
        references: N annotations.
        lower_case: compare tokens without case. The published package does not (a later version on GitHub does):
            then the names have ``_lower`` at their end.
        model: who annotated, for the signature.

    Returns:
        ``rg_e`` (entities with their labels), ``rg_er`` (and whether they have a relation: the paper's), and
        ``rg_er_bar`` (relations with type and target). A pair with an empty graph on either side scores 0.

    Raises:
        InputError: other lengths, or an annotation of another form.
    """
    import numpy as np

    if len(candidates) != len(references) or not len(references):
        raise InputError(f"{len(candidates)} candidate and {len(references)} reference annotations")
    end = "_lower" if lower_case else ""
    values: dict[str, list[float]] = {name: [] for name in LEVELS}
    for number, (candidate, reference) in enumerate(zip(candidates, references, strict=True), 1):
        found, there = (_entities(graph, number, lower_case) for graph in (candidate, reference))
        for name, tuples in LEVELS.items():
            values[name].append(_f1(tuples(found), tuples(there)) if found and there else 0.0)
    case = "lower" if lower_case else "sensitive"
    return mean_scores(
        {name + end: np.array(column) for name, column in values.items()},
        f"rg{end}|model:{model}|levels:simple,partial,complete|case:{case}|aggregate:mean",
    )


def _entities(graph: Annotation, number: int, lower_case: bool) -> Entities:
    try:
        entities = graph["entities"]
        names = {key: entity["tokens"].lower() for key, entity in entities.items()}
        return [
            (
                names[key] if lower_case else entity["tokens"],
                entity["label"],
                [(kind, names[target]) for kind, target in entity["relations"]],
            )
            for key, entity in entities.items()
        ]
    except (KeyError, TypeError, AttributeError, ValueError):
        raise InputError(f"annotation number {number} is not a RadGraph annotation") from None


def _simple(entities: Entities) -> set[Any]:
    return {(tokens, label) for tokens, label, _ in entities}


def _partial(entities: Entities) -> set[Any]:
    return {(tokens, label, True) if relations else (tokens, label) for tokens, label, relations in entities}


def _complete(entities: Entities) -> set[Any]:
    """As published: tokens keep their case where there is no relation, and lose it where there is one."""
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
