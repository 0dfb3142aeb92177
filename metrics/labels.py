"""The fourteen CheXpert observations, the values that a labeler gives to each, and F1 scores of such labels.

Order and codes are those of CheXbert (Smit et al. 2020, https://github.com/stanfordmlgroup/CheXbert). The paper's score
is Macro-F1-14 "with the 'uncertain' label mapped as negative": the mean of the 14 F1 scores of the positive class. A
class that neither side has counts 0, as scikit-learn's ``zero_division=0``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, get_args

from metrics.annotations import AnnotatedMetric
from metrics.base import InputError, option
from metrics.scores import Scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from metrics.scores import Floats

Uncertain = Literal["negative", "positive"]
CLASSES: Final = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    "No Finding",
)
TOP_5: Final = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")

BLANK, POSITIVE, NEGATIVE, UNCERTAIN = 0, 1, 2, 3
VALUES: Final = ("blank", "positive", "negative", "uncertain")


@dataclass(frozen=True)
class LabelOptions:
    """Options of metrics of labels.

    Attributes:
        uncertain: Value that uncertain labels count as.
    """

    uncertain: Uncertain = option("negative", panel=None)


class LabelF1(AnnotatedMetric):
    """F1 of the labels of one labeler; scores are named ``KIND_macro_f1_14`` and the like.

    Annotations are rows of 14 codes.
    """

    options: ClassVar[tuple[type, ...]] = (LabelOptions,)
    nothing = (BLANK,) * len(CLASSES)

    def of_annotations(self, candidates: Sequence[Any], references: Sequence[Any]) -> Scores:
        """Score N rows of labels against N; see :func:`label_f1`."""
        uncertain = self.settings.of(LabelOptions).uncertain
        return label_f1(candidates, references, uncertain=uncertain, prefix=f"{self.kind}_", labeler=self.identity)

    @classmethod
    def title(cls, score: str) -> str | None:
        """Return the name of a score in tables and figures: its class, or mean and number of classes."""
        kind, _, rest = score.partition("_")
        if kind != cls.kind:
            return None
        head, slash, name = rest.partition("/")
        if slash:
            kind = head.rstrip("+")
            return name + ("+" if head.endswith("+") else "") + ("" if kind == "f1" else f" ({kind})")
        mean, _, classes = rest.partition("_f1_")
        return f"{cls.labeler} {mean.capitalize()}-F1-{classes}"


def label_f1(
    candidates: Sequence[Sequence[int]] | NDArray[Any],
    references: Sequence[Sequence[int]] | NDArray[Any],
    *,
    uncertain: Uncertain = "negative",
    absent: float = 0.0,
    prefix: str = "",
    labeler: str = "given",
) -> Scores:
    """Score N pairs of label rows by F1.

    Args:
        candidates: ``[N, 14]`` codes of this module.
        references: ``[N, 14]``.
        uncertain: value that uncertain labels count as. ``positive`` is another metric, with a "+" after its names
            (as in f1chexbert and RadEval).
        absent: F1 of a class that neither side has, and of a report without a label on either: 0 as in the paper; NaN
            leaves it out of the mean. Also the precision of a class that no candidate has and the recall of one that
            no reference has.
        prefix: beginning of all names: the source of the labels.
        labeler: source of the labels, for the signature.

    Returns:
        ``macro_f1_14``, ``micro_f1_14``, ``macro_f1_5``, ``micro_f1_5``, ``weighted_f1_14``, ``samples_f1_14``,
        ``f1/<class>``, ``precision/<class>`` and ``recall/<class>``. The value of one report is the F1 of its own 14
        labels.

    Raises:
        InputError: if the arguments are not two arrays of that shape and of these codes, or ``uncertain`` is neither.
    """
    import numpy as np

    if uncertain not in get_args(Uncertain):
        raise InputError(f"uncertain labels count as {' or '.join(get_args(Uncertain))}")
    plus = "+" if uncertain == "positive" else ""
    positive = [POSITIVE, UNCERTAIN] if plus else [POSITIVE]
    found, there = (
        np.isin(_checked(rows, what), positive) for rows, what in ((candidates, "candidate"), (references, "reference"))
    )
    if len(found) != len(there):
        raise InputError(f"labels of {len(found)} candidates and {len(there)} references: there must be one of each")
    hits, extra, missed = found & there, found & ~there, ~found & there
    of_reports = _f1(hits.sum(1), extra.sum(1), missed.sum(1), absent)
    defined = ~np.isnan(of_reports)
    sampled = np.stack([np.where(defined, of_reports, 0.0), defined], axis=1)
    statistics = np.concatenate([hits, extra, missed, sampled], axis=1).astype(np.float64)
    five = [CLASSES.index(name) for name in TOP_5]
    size = len(CLASSES)

    def of_sums(sums: Floats, counts: Floats) -> dict[str, Floats]:
        tp, fp, fn = sums[..., :size], sums[..., size : 2 * size], sums[..., 2 * size : 3 * size]
        classes = _f1(tp, fp, fn, absent)
        support = tp + fn
        with np.errstate(invalid="ignore", divide="ignore"):
            samples = sums[..., -2] / sums[..., -1]
            weighted = np.where(support > 0, classes * support, 0.0).sum(axis=-1) / support.sum(axis=-1)
        scores = {
            "macro_f1_14": _mean(classes),
            "micro_f1_14": _f1(tp.sum(-1), fp.sum(-1), fn.sum(-1), absent),
            "macro_f1_5": _mean(classes[..., five]),
            "micro_f1_5": _f1(tp[..., five].sum(-1), fp[..., five].sum(-1), fn[..., five].sum(-1), absent),
            "weighted_f1_14": np.where(support.sum(axis=-1) > 0, weighted, absent),
            "samples_f1_14": samples,
        }
        of_classes = {"f1": classes, "precision": _share(tp, tp + fp, absent), "recall": _share(tp, support, absent)}
        for key, values in of_classes.items():
            scores |= {f"{key}/{name}": values[..., column] for column, name in enumerate(CLASSES)}
        return {name_of(key): value for key, value in scores.items()}

    def positives(sums: Floats) -> dict[str, int]:
        support = (sums[:size] + sums[2 * size : 3 * size]).astype(int)
        every, top = int(support.sum()), int(support[five].sum())
        counts = dict.fromkeys(("macro_f1_14", "micro_f1_14", "weighted_f1_14", "samples_f1_14"), every)
        counts |= {"macro_f1_5": top, "micro_f1_5": top}
        for key in ("f1", "recall"):
            counts |= {f"{key}/{name}": int(support[column]) for column, name in enumerate(CLASSES)}
        return {name_of(key): value for key, value in counts.items()}

    def name_of(key: str) -> str:
        head, slash, tail = key.partition("/")
        return f"{prefix}{head}{plus}{slash}{tail}"

    return Scores(
        statistics,
        of_sums,
        {name_of("samples_f1_14"): of_reports},
        f"{prefix}f1|labeler:{labeler}|uncertain:{uncertain}|absent-class:{absent:g}|classes:chexpert-14",
        positives,
    )


def _checked(rows: Any, what: str) -> NDArray[np.int8]:
    import numpy as np

    try:
        array = np.asarray(rows)
    except ValueError:
        array = np.empty(0)
    if array.ndim != 2 or array.shape[1] != len(CLASSES) or not len(array):
        raise InputError(f"{what} labels must be rows of {len(CLASSES)} codes, not an array of shape {array.shape}")
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= len(VALUES):
        raise InputError(f"{what} labels must be codes 0 to {len(VALUES) - 1}: {', '.join(VALUES)}")
    return array.astype(np.int8)


def _f1(tp: NDArray[Any], fp: NDArray[Any], fn: NDArray[Any], absent: float) -> Floats:
    return _share(2 * tp, 2 * tp + fp + fn, absent)


def _share(part: NDArray[Any], whole: NDArray[Any], absent: float) -> Floats:
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, absent)


def _mean(classes: Floats) -> Floats:
    """Return the mean of the defined values over the last axis."""
    import numpy as np

    defined = ~np.isnan(classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Floats = np.where(defined, classes, 0.0).sum(axis=-1) / defined.sum(axis=-1)
    return mean
