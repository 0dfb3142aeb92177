"""Annotations of reports (labels, graphs): from a file, from the cache, or from a model; each text is annotated once.

Files of annotations let one machine annotate and another score.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from metrics import registry
from metrics.base import InputError, Metric, MetricError, Progress, Report, Settings, WeightsError, is_empty
from metrics.cache import Cache
from metrics.scores import Scores

Row = Mapping[str, Any]
Key = tuple[str, str]
"""Side (``prediction`` or ``reference``) and id of a report."""
Given = Mapping[str, Mapping[Key, Any]]
"""Annotations by kind and key, which replace those of a model."""

_ENOUGH = 20
_LISTED = 10


class Annotating(Protocol):
    """A model that annotates texts."""

    @property
    def weights_id(self) -> str:
        """Id of weights and settings: part of signatures and of the cache's keys."""

    @property
    def warnings(self) -> list[str]:
        """Remarks for a reader of the scores."""

    def portions(self, texts: Sequence[str], *, batch_size: int) -> Iterator[Sequence[Any]]:
        """Yield the annotations of N texts in their order, in portions of any size."""


class AnnotatedMetric(Metric):
    """A metric of annotations, which a model makes from texts.

    Args:
        name: name of the registry row.
        settings: options of the evaluation.
        given: annotations that replace the model's; None if there are none. With them the weights may be missing.

    Metrics of one kind with the same settings share the model and what it said: no text is annotated twice.

    Raises:
        MetricError: if the model cannot be loaded and no annotations are given.

    Attributes:
        kind: name of the annotation in files and messages.
        kept: whether annotations are worth keeping in the cache and in files.
        learned: whether the model has weights, which may be another model's.
        nothing: annotation of every empty text, whatever a model or a file says of it.
    """

    kind: ClassVar[str]
    nothing: ClassVar[Any]
    kept: ClassVar[bool] = True
    learned: ClassVar[bool] = True

    def __init__(self, name: str, settings: Settings, given: Mapping[Key, Any] | None = None) -> None:
        super().__init__(name, settings)
        self._given = given or {}
        self._known: dict[str, Any] = settings.once(f"annotations {self.kind}", dict)
        self._model: Annotating | None = None
        try:
            self._model = settings.once(f"model {self.kind}", self.load)
        except MetricError:
            if given is None:
                raise
        self.identity = f"{self.kind}:given" if self._model is None else self._model.weights_id
        if self._model is not None and self._given:
            self.identity += "+given"

    @abstractmethod
    def load(self) -> Annotating:
        """Load the model.

        Raises:
            MetricError: if weights or packages are missing.
        """

    @abstractmethod
    def of_annotations(self, candidates: Sequence[Any], references: Sequence[Any]) -> Scores:
        """Score N annotations of candidates against N of references."""

    @classmethod
    def from_row(cls, row: Row, where: str) -> Any | None:
        """Return the annotation in a row of a file, or None if it has none.

        Args:
            row: columns by name.
            where: file and row, for messages.

        Raises:
            InputError: if the annotation is malformed.
        """
        return row.get(cls.kind)

    def pack(self, annotation: Any) -> Any:
        """Return the part of an annotation that is kept in the cache; it holds no words of the report."""
        return annotation

    def unpack(self, text: str, packed: Any) -> Any:
        """Return the annotation of a text from the part that is kept."""
        return packed

    @property
    def warnings(self) -> list[str]:
        """Remarks for a reader of the scores."""
        return [] if self._model is None else self._model.warnings

    def scores(self, candidates: Sequence[str], references: Sequence[str]) -> Scores:
        """Annotate and score N pairs of texts."""
        found = self.annotations([*candidates, *references])
        return self.of_annotations(found[: len(candidates)], found[len(candidates) :])

    def annotations(
        self,
        texts: Sequence[str],
        *,
        keys: Sequence[Key] | None = None,
        cache: Cache | None = None,
        report: Report | None = None,
    ) -> list[Any]:
        """Return the annotations of N texts.

        Args:
            texts: N reports.
            keys: of each text, to look for a given annotation.
            cache: annotations of earlier runs.
            report: told how many texts are done.

        Raises:
            InputError: if a text has no given annotation and there is no model.
            WeightsError: see :func:`refuse_constant`.
        """
        both = list(zip(keys or [("", "")] * len(texts), texts, strict=True))
        self._known |= {text: self.nothing for text in texts if is_empty(text)}
        missing = [text for key, text in both if text not in self._known and key not in self._given]
        if missing:
            model, size = self._model, self.settings.batch_size
            if model is None:
                raise InputError(f"{len(missing)} reports have no {self.kind} annotation among those given")
            packed = annotate(
                missing,
                lambda some: (list(map(self.pack, part)) for part in model.portions(some, batch_size=size)),
                model=self.identity,
                cache=cache if self.kept else None,
                progress=report(self.kind, len(set(missing))) if report else None,
            )
            if self.learned:
                refuse_constant(missing, packed, self.kind)
            self._known |= {text: self.unpack(text, value) for text, value in zip(missing, packed, strict=True)}
        return [
            self._given[key] if key in self._given and not is_empty(text) else self._known[text] for key, text in both
        ]


def annotate(
    texts: Sequence[str],
    run: Callable[[list[str]], Iterable[Sequence[Any]]],
    *,
    model: str = "",
    cache: Cache | None = None,
    progress: Progress | None = None,
) -> list[Any]:
    """Annotate N texts, each different one at most once.

    Args:
        texts: N reports.
        run: function from texts to their annotations, in the same order and in portions of any size; called only if
            something is unknown. Each portion is kept as it comes, so that an interrupted run can be continued.
        model: id of weights and settings.
        cache: annotations of earlier runs.
        progress: called with the number of distinct texts that are done.
    """
    different = list(dict.fromkeys(texts))
    known = cache.get(model, different) if cache else {}
    missing = [text for text in different if text not in known]
    if progress:
        progress(len(different) - len(missing))
    if missing:
        done = 0
        for portion in run(missing):
            new = dict(zip(missing[done : done + len(portion)], portion, strict=True))
            done += len(portion)
            known |= new
            if cache:
                cache.put(model, new)
            if progress:
                progress(len(portion))
    return [known[text] for text in texts]


def refuse_constant(texts: Sequence[str], values: Sequence[Any], what: str) -> None:
    """Refuse a model that gives the same result for every text: its weights are random, or another model's.

    Args:
        texts: N texts.
        values: result for each. Fewer than 20 different texts are accepted whatever the results.
        what: name of the model, for the message.

    Raises:
        WeightsError: if all values are equal.
    """
    different = {text for text in texts if not is_empty(text)}
    if len(different) < _ENOUGH:
        return
    first, *others = (value for text, value in zip(texts, values, strict=True) if not is_empty(text))
    if all(value == first for value in others):
        raise WeightsError(
            f"{what} gives the same result for all {len(different)} different reports: "
            "the weights are random or not of this model",
            hint="check the file that was given",
        )


def _kinds() -> dict[str, type[AnnotatedMetric]]:
    """Return the annotated metrics whose annotations can be given, by kind."""
    found = (metric for metric in registry.classes() if issubclass(metric, AnnotatedMetric) and metric.kept)
    return {metric.kind: metric for metric in found}


def read(rows: Iterable[Row], ids: Iterable[str], *, name: str, id_field: str = "id") -> dict[str, dict[str, Any]]:
    """Return the annotations in the rows of a file, by kind and id.

    Args:
        rows: each ``{"id", "chexbert": [14 codes], "radgraph": {"entities": ...}}``, or the id and a column for each
            observation (1, 0, -1 or empty).
        ids: reports that are wanted.
        name: name of the file, for messages.
        id_field: column of the ids.

    Raises:
        InputError: if one of ``ids`` is missing, an id comes twice, or an annotation is malformed.
    """
    kinds = _kinds()
    found: dict[str, dict[str, Any]] = {}
    wanted = dict.fromkeys(ids)
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        key = str(row.get(id_field, row.get("id", "")))
        if seen.setdefault(key, number) != number:
            raise InputError(f"{name}: rows {seen[key]} and {number} have the same id")
        if key not in wanted:
            continue
        for kind, metric in kinds.items():
            value = metric.from_row(row, f"{name}, row {number}")
            if value is not None:
                found.setdefault(kind, {})[key] = value
    missing = [key for key in wanted if key not in seen]
    if missing:
        numbers = [number for number, key in enumerate(wanted, 1) if key not in seen]
        shown = ", ".join(map(str, numbers[:_LISTED]))
        shown += f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise InputError(f"{name}: {len(missing)} reports have no annotation, by position: {shown}")
    return found


def lines(ids: Sequence[str], annotations: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """Yield a JSON line for each of N reports, with its annotations by kind.

    The lines hold words of the reports and are as confidential as those.
    """
    kinds = [kind for kind in _kinds() if kind in annotations]
    for number, key in enumerate(ids):
        found = {kind: annotations[kind][number] for kind in kinds}
        yield json.dumps({"id": key, **found}, ensure_ascii=False, separators=(",", ":")) + "\n"
