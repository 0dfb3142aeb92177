"""SembScore (Yu et al. 2023): cosine of the states of [CLS] that CheXbert gives to two reports.

The definition is that of https://github.com/rajpurkarlab/CXR-Report-Metric, where it is called ``semb_score``.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from metrics.annotations import AnnotatedMetric, Row
from metrics.base import InputError
from metrics.chexbert import VOCABULARY, WEIGHTS, CheXbert, CheXbertOptions
from metrics.scores import Scores, mean_scores

if TYPE_CHECKING:
    from metrics.scores import Floats


class SembScore(AnnotatedMetric):
    """SembScore as a registered metric.

    Annotations are the states as float32, little-endian, in base64. CheXbert is shared with the metric of its labels,
    so that a text goes through it once for both.
    """

    kind = "chexbert_state"
    nothing = ""
    summary = "SembScore: cosine of CheXbert's states of [CLS], mean over reports"
    citation = "Yu, F. et al. Evaluating progress in automatic chest X-ray radiology report generation. 2023."
    options: ClassVar = (CheXbertOptions,)
    weights: ClassVar = (WEIGHTS, VOCABULARY)
    titles: ClassVar = {"sembscore": "SembScore"}

    def load(self) -> States:
        """Find the weights; they are read when they are first needed.

        Raises:
            WeightsError: if a file is missing.
        """
        return States(self.settings.once("model chexbert", partial(CheXbert.of, self.settings)))

    @classmethod
    def from_row(cls, row: Row, where: str) -> str | None:
        """Return the state in a row of a file.

        Raises:
            InputError: if it is malformed.
        """
        value = row.get(cls.kind)
        if value is None or value == cls.nothing:
            return None
        try:
            if len(b64decode(value, validate=True)) % 4:
                raise ValueError
        except (TypeError, ValueError, binascii.Error):
            raise InputError(f"{where}: {cls.kind} must be float32 numbers in base64") from None
        return str(value)

    def of_annotations(self, candidates: Sequence[Any], references: Sequence[Any]) -> Scores:
        """Score N states of candidates against N of references; a pair with an empty text scores 0.

        Raises:
            InputError: if states differ in length, as those of two models do.
        """
        import numpy as np

        rows = [row for row, pair in enumerate(zip(candidates, references, strict=True)) if all(pair)]
        values: Floats = np.zeros(len(candidates))
        if rows:
            first, second = (_decoded([side[row] for row in rows]) for side in (candidates, references))
            if first.shape != second.shape:
                raise InputError(f"states of {first.shape[1]} and of {second.shape[1]} numbers cannot be compared")
            norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
            products = (first * second).sum(axis=1)
            values[rows] = np.divide(products, norms, out=np.zeros(len(rows)), where=norms > 0)
        return mean_scores({"sembscore": values}, f"sembscore|model:{self.identity}|state:cls|aggregate:mean")


class States:
    """CheXbert as a model whose annotations are states of [CLS].

    Args:
        labeler: model that is shared with the metric of labels.
    """

    def __init__(self, labeler: CheXbert) -> None:
        labeler.remember()
        self._labeler = labeler
        self.weights_id = f"state-{labeler.weights_id}"

    @property
    def warnings(self) -> list[str]:
        """Remarks for a reader of the scores."""
        return self._labeler.warnings

    def portions(self, texts: Sequence[str], *, batch_size: int) -> Iterator[list[str]]:
        """Yield the states of N texts in their order, in base64."""
        for part in self._labeler.states(texts, batch_size=batch_size):
            yield [b64encode(state.astype("<f4").tobytes()).decode() for state in part]


def _decoded(states: Sequence[str]) -> Floats:
    """Return N states ``[N, D]``.

    Raises:
        InputError: if they differ in length.
    """
    import numpy as np

    rows = [np.frombuffer(b64decode(state), dtype="<f4") for state in states]
    if len({len(row) for row in rows}) > 1:
        raise InputError("CheXbert's states differ in length: they are of different models")
    return np.array(rows, dtype=np.float64)
