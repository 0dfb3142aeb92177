"""RaTEScore (Zhao et al. 2024): entities of two reports, compared by meaning and weighted by their types.

One model finds entities (abnormality, disease, both also as absent, and anatomy) in each sentence, another gives each a
vector, and every entity is compared with the nearest one of the other report. Definitions and weights are those of the
package RaTEScore 0.6.0 (MIT), which RadEval 2.2.1 has too; sentences are split by rules of our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final

from metrics.annotations import AnnotatedMetric, Row
from metrics.base import HubFile, InputError, WeightsError, option
from metrics.model_files import find_folder, folder_id, load_folder
from metrics.scores import Scores, mean_scores

if TYPE_CHECKING:
    from torch import Tensor

    from metrics.base import Settings
    from metrics.scores import Floats

FINDER: Final = HubFile(
    "Angelakeke/RaTE-NER-Deberta", "model.safetensors", "RaTEScore's model of entities", "--ratescore-entities DIR"
)
ENCODER: Final = HubFile(
    "FremyCompany/BioLORD-2023-C", "model.safetensors", "RaTEScore's encoder", "--ratescore-encoder DIR"
)
TYPES: Final = ("ABNORMALITY", "ANATOMY", "DISEASE", "NON-ABNORMALITY", "NON-DISEASE")
AFFINITY: Final = (
    (0.4276119164393705, 0.6240929990607657, 0.0034478181112993847, 0.5431049700217344, 0.27005425386213877),
    (0.7487824274337533, 0.2856134859160784, 0.4592143222158069, 0.02097055139911715, 0.00013736314126696204),
    (0.8396510075734789, 0.9950209388542061, 0.8460555030578727, 0.9820689020512646, 0.3789136708096537),
    (0.16546764653692908, 0.018670610691852826, 0.719397354576018, 0.0009357166071730684, 0.0927333564267591),
    (0.7759420231214385, 0.1839139293714062, 0.10073046076318157, 0.03860183811876373, 0.34065681486566446),
)
"""Weight of an entity by its type (rows) and that of the nearest one: the package's matrix "long"."""
OPPOSITE: Final = 0.8716553966489615
"""Factor of the similarity of two entities of which one is absent and the other is not."""
NOTHING_FOUND: Final = 0.5
"""Score of a pair of texts of which either has no entity."""
_LONGEST_SENTENCE, _LONGEST_ENTITY = 512, 30  # word pieces
_SHORTEST = 3  # characters of a sentence

# Beginnings of sentences, after RuSH's rules for clinical text, which the package uses through medspaCy (agreement in
# docs/metrics.md): after a stop, a question mark or a line's end, depending on the letters on both sides.
_BEGIN = re.compile(
    r"(?<=[a-z0-9)]\.)(?<!Dr\.)[ \n]+(?=[A-Z])"
    r"|(?<=[A-Z]{3}\.)[ \n]+(?=[A-Z][a-z])"
    r"|(?<=[a-z]{2}\.)[ \n]+(?=[a-z])"
    r"|(?<=\.)[ \n]+(?=The\b|\d{1,3}\. ?[A-Z])"
    r"|(?<=[?!])[ \n]+(?=[A-Z][a-z]|\d)"
    r"|\n+(?=[A-Z]|- ?[A-Za-z]|\d{1,3}[.)] ?[A-Z])"
)
_NUMBER = re.compile(r"\d{1,3}\.")  # of a list

Entity = tuple[str, str]
"""Words and type."""


@dataclass(frozen=True)
class RaTEScoreOptions:
    """Models of RaTEScore.

    Attributes:
        ratescore_entities: Folder or hub repository of RaTEScore's model of entities.
        ratescore_encoder: Folder or hub repository of RaTEScore's encoder of entities.
    """

    ratescore_entities: str | None = option(None, metavar="DIR-OR-HUB-ID")
    ratescore_encoder: str | None = option(None, metavar="DIR-OR-HUB-ID")


class RaTEScore(AnnotatedMetric):
    """RaTEScore as a registered metric; annotations are entities, ``[[words, type], ...]``."""

    kind = "rate_entities"
    nothing = None
    summary = "RaTEScore: entities of both reports compared by meaning and type, mean over reports"
    citation = "Zhao, W. et al. RaTEScore: A metric for radiology report generation. 2024."
    options: ClassVar = (RaTEScoreOptions,)
    weights: ClassVar = (FINDER, ENCODER)
    titles: ClassVar = {"ratescore": "RaTEScore"}

    def __init__(self, name: str, settings: Settings, given: Mapping[tuple[str, str], Any] | None = None) -> None:
        super().__init__(name, settings, given)
        self._encoder = settings.once("model rate_encoder", partial(Encoder, settings))

    def load(self) -> Finder:
        """Load the model of entities.

        Raises:
            WeightsError: if a file is missing, damaged, or of another model.
        """
        return Finder(self.settings)

    @classmethod
    def from_row(cls, row: Row, where: str) -> list[Entity] | None:
        """Return the entities in a row of a file.

        Raises:
            InputError: if they are malformed.
        """
        value = row.get(cls.kind)
        if value is None:
            return None
        pairs: list[Any] = value if isinstance(value, list) else [None]
        if any(
            not isinstance(one, list) or len(one) != 2 or not isinstance(one[0], str) or one[1] not in TYPES
            for one in pairs
        ):
            raise InputError(f"{where}: {cls.kind} must be pairs of words and type ({', '.join(TYPES)})")
        return [(words, kind) for words, kind in pairs]

    def unpack(self, text: str, packed: Any) -> Any:
        """Return the entities of a text from their places, which are kept without any word of the report."""
        assert isinstance(self._model, Finder)  # the annotation is that of a model
        return self._model.entities(text, packed)

    def of_annotations(self, candidates: Sequence[Any], references: Sequence[Any]) -> Scores:
        """Score N lists of entities against N; a pair with an empty text scores 0, one without entities 0.5."""
        import numpy as np

        texts = {words for side in (candidates, references) for one in side if one for words, _ in one}
        vectors = self._encoder.encode(sorted(texts))
        values: Floats = np.zeros(len(candidates))
        for row, (found, there) in enumerate(zip(candidates, references, strict=True)):
            if found is not None and there is not None:
                values[row] = similarity(found, there, vectors) if found and there else NOTHING_FOUND
        signature = f"ratescore|entities:{self.identity}|encoder:{self._encoder.weights_id}|affinity:long"
        return mean_scores({"ratescore": values}, f"{signature}|sentences:own|aggregate:mean")


def sentences(text: str) -> list[str]:
    """Split a text into sentences of three characters and more."""
    text = re.sub(r" ?\n ?", "\n", re.sub(r"[^\S\n]+", " ", text))
    found, start = [], 0
    for gap in _BEGIN.finditer(text):
        if not (start and _NUMBER.fullmatch(text, start, gap.start())):
            found.append(text[start : gap.start()])
            start = gap.end()
    return [one.strip() for one in (*found, text[start:]) if len(one.strip()) >= _SHORTEST]


def spans(labels: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return first and last token and type of each entity from the labels of a sentence's tokens ``[T]``.

    Labels are IOB; the first and last tokens are the marks of the sentence's ends, whose labels only tell that an
    entity does not go on. As in the package, the last token of an entity that another follows begins an entity too, and
    one whose end was never reached ends before the last mark, unless another ended at that place.
    """
    found: list[tuple[int, int, str]] = []
    start: int | None = None
    end: int | None = None
    kind = ""
    for place, (label, following) in enumerate(pairwise(labels[1:]), 1):
        here, next_one = label[:1], following[:1]
        if here == "O" or (here == "I" and next_one == "I"):
            continue
        if here == "B":
            start, kind = place, label[2:]
        if next_one == "I":
            continue
        if start is not None:
            found.append((start, place, kind))
        start, end, kind = (place, place, label[2:]) if next_one == "B" else (None, None, "")
    if start is not None and end is None:
        found.append((start, len(labels) - 2, kind))
    return found


def similarity(found: Sequence[Entity], there: Sequence[Entity], vectors: Mapping[str, Tensor]) -> float:
    """Return the F1 of two lists of entities: harmonic mean of what either has of the other."""
    import torch
    from torch.nn.functional import normalize

    first, second = (normalize(torch.stack([vectors[words] for words, _ in side])) for side in (found, there))
    cosines = first @ second.T
    precision = _covered(found, there, cosines)
    recall = _covered(there, found, cosines.T)
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def _covered(entities: Sequence[Entity], others: Sequence[Entity], cosines: Tensor) -> float:
    """Return the weighted mean similarity of each entity and the nearest other one, from cosines ``[E, O]``."""
    best = cosines.topk(1, dim=1)
    weighted = total = 0.0
    for (_, kind), cosine, place in zip(entities, best.values[:, 0].tolist(), best.indices[:, 0].tolist(), strict=True):
        other = others[place][1]
        weight = AFFINITY[TYPES.index(kind)][TYPES.index(other)]
        absent = kind.startswith("NON-") != other.startswith("NON-") and "ANATOMY" not in (kind, other)
        weighted += cosine * weight * (OPPOSITE if absent else 1.0)
        total += weight
    return weighted / total if total else 0.0


class Finder:
    """Model that finds entities.

    Args:
        settings: options of the evaluation.

    Raises:
        WeightsError: if a file is missing, damaged, or of another model.

    Attributes:
        weights_id: id of the weights.
        warnings: remarks for a reader of the scores; there are none.
    """

    def __init__(self, settings: Settings) -> None:
        from metrics.onednn import with_onednn

        name = settings.of(RaTEScoreOptions).ratescore_entities or FINDER.repository
        folder = find_folder(name, FINDER, allow_download=settings.allow_download)
        config, self._tokenizer, model = load_folder(folder, FINDER.what, "AutoModelForTokenClassification")
        self._labels = [config.id2label[number] for number in range(len(config.id2label))]
        if strange := [label for label in self._labels if label != "O" and label[2:] not in TYPES]:
            raise WeightsError(
                f"{FINDER.what} in {folder.name} has the label {strange[0]}", hint=f"give {FINDER.option}"
            )
        self._model = with_onednn(model.to(settings.device).eval())
        self._device = settings.device
        self.weights_id = f"rate:{folder_id(folder)}"
        self.warnings: list[str] = []

    def portions(self, texts: Sequence[str], *, batch_size: int) -> Iterator[list[list[Any]]]:
        """Yield the places of the entities of texts, in portions of sixteen batches.

        A place is number of the sentence, first and last token, type.
        """
        for start in range(0, len(texts), 16 * batch_size):
            some = [sentences(text) for text in texts[start : start + 16 * batch_size]]
            every = list(dict.fromkeys(sentence for one in some for sentence in one))
            found = dict(zip(every, self._spans(every, batch_size), strict=True))
            yield [[[number, *span] for number, sentence in enumerate(one) for span in found[sentence]] for one in some]

    def entities(self, text: str, places: Sequence[Sequence[Any]]) -> list[Entity]:
        """Return the entities of a text from their places."""
        split = sentences(text)
        tokens = {number: self._tokens(split[number]) for number in {place[0] for place in places}}
        return [
            (self._tokenizer.convert_tokens_to_string(tokens[number][first : last + 1]), kind)
            for number, first, last, kind in places
        ]

    def _tokens(self, sentence: str) -> list[str]:
        ids = self._tokenizer(sentence, truncation=True, max_length=_LONGEST_SENTENCE)["input_ids"]
        tokens: list[str] = self._tokenizer.convert_ids_to_tokens(ids)
        return tokens

    def _spans(self, some: Sequence[str], batch_size: int) -> list[list[tuple[int, int, str]]]:
        import torch

        order = sorted(range(len(some)), key=lambda index: len(some[index]))
        results: list[list[tuple[int, int, str]]] = [[] for _ in some]
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            inputs = self._tokenizer(
                [some[row] for row in rows], truncation=True, max_length=_LONGEST_SENTENCE, padding=True,
                return_tensors="pt",
            ).to(self._device)  # fmt: skip
            with torch.inference_mode():
                best = self._model(**inputs).logits.argmax(dim=2).tolist()
            for row, labels, length in zip(rows, best, inputs["attention_mask"].sum(dim=1).tolist(), strict=True):
                results[row] = spans([self._labels[label] for label in labels[:length]])
        return results


class Encoder:
    """Model that gives a vector to the words of an entity.

    Args:
        settings: options of the evaluation.

    Raises:
        WeightsError: if a file is missing or damaged.

    Attributes:
        weights_id: id of the weights.
    """

    def __init__(self, settings: Settings) -> None:
        from metrics.onednn import with_onednn

        name = settings.of(RaTEScoreOptions).ratescore_encoder or ENCODER.repository
        folder = find_folder(name, ENCODER, allow_download=settings.allow_download)
        _, self._tokenizer, model = load_folder(folder, ENCODER.what, "AutoModel")
        self._model = with_onednn(model.to(settings.device).eval())
        self._device = settings.device
        self._batch_size = 4 * settings.batch_size  # entities have few words
        self._known: dict[str, Tensor] = {}
        self.weights_id = folder_id(folder)

    def encode(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """Return the vector ``[D]`` of each text, the last state of the first token; others may be among them."""
        import torch

        new = sorted((text for text in texts if text not in self._known), key=len)
        for start in range(0, len(new), self._batch_size):
            some = new[start : start + self._batch_size]
            inputs = self._tokenizer(
                some, truncation=True, padding=True, max_length=_LONGEST_ENTITY, return_tensors="pt"
            ).to(self._device)
            with torch.inference_mode():
                states = self._model(**inputs).last_hidden_state[:, 0]
            self._known |= zip(some, states.float().cpu(), strict=True)
        return self._known
