"""Prediction of sex, age, weight, body-mass index and ethnicity from an encoder's image vectors.

The paper (3.6, E.3.4, C.6): scikit-learn's ``LogisticRegression`` at its defaults, at most 100 iterations, on the
vectors of images without findings; five-fold cross-validation, accuracy as mean (standard deviation). Continuous
variables are cut into five bins (table E.1). Folds never divide a subject. The images are those on which all wanted
variables of that table are known, as its numbers add up to the same for each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from encoder.datasets.manifest import Row
from encoder.datasets.mimic_iv import COHORT
from encoder.datasets.values import ethnicity_of, measure_of, sex_of, years_of
from encoder.errors import LlavaRadError

BINS: Final = {
    "age": (20.0, 40.0, 60.0, 80.0),
    "weight": (50.0, 65.0, 80.0, 95.0),
    "bmi": (18.5, 25.0, 30.0, 35.0),
}
"""Edges of table E.1: years, kilograms, kilograms per square metre. A value on an edge belongs to the upper bin,
except the last edge, since the paper's last bin is above it."""
VARIABLES: Final = ("sex", "age", "weight", "bmi", "ethnicity")
FOLDS: Final = 5


@dataclass(frozen=True)
class DemographicsResult:
    """Accuracy of one variable.

    Attributes:
        variable: of :data:`VARIABLES`.
        accuracy: for each fold.
        most_frequent: accuracy of always predicting the most frequent class of the training folds, for each fold.
        classes: number of images of each class.
        images: number with a known value.
        subjects: number among these.
    """

    variable: str
    accuracy: list[float]
    most_frequent: list[float]
    classes: dict[str, int]
    images: int
    subjects: int


def class_of(variable: str, value: str) -> str | None:
    """Map a patient's value to its class; None if it is unknown.

    Raises:
        LlavaRadError: if there is no such variable.
    """
    text = value.strip().lower()
    if variable in ("sex", "ethnicity"):
        return (sex_of(text) if variable == "sex" else ethnicity_of(text)) or None
    if variable not in BINS:
        raise LlavaRadError(f"there is no variable {variable!r}", hint=f"choose from {', '.join(VARIABLES)}")
    number = years_of(text) if variable == "age" else float(measure_of(text) or "nan")
    if number is None or math.isnan(number):
        return None
    edges = BINS[variable]
    if number < edges[0]:
        return f"<{edges[0]:g}"
    if number > edges[-1]:
        return f">{edges[-1]:g}"
    index = next((index for index in range(1, len(edges)) if number < edges[index]), len(edges) - 1)
    return f"{edges[index - 1]:g}-{edges[index]:g}"


def without_findings(rows: Sequence[Row], label: str = "No Finding") -> list[Row]:
    """Select the images that the paper takes: those labelled as without findings.

    Raises:
        LlavaRadError: if no image has the label.
    """
    kept = [row for row in rows if row.labels.get(label) == 1]
    if not kept:
        raise LlavaRadError(f"no image of the manifest has the label {label!r}", hint="--all-images takes all of them")
    return kept


def cohort(rows: Sequence[Row], variables: Sequence[str]) -> list[Row]:
    """Select the images on which all of ``variables`` that table E.1 has are known; ethnicity is not in it.

    Raises:
        LlavaRadError: if there are none.
    """
    wanted = [name for name in variables if name in COHORT]
    kept = [row for row in rows if all(class_of(name, row.attributes.get(name, "")) is not None for name in wanted)]
    if not kept:
        raise LlavaRadError(f"no image of the manifest has all of {', '.join(wanted)}")
    return kept


def demographics(
    rows: Sequence[Row], vectors: npt.NDArray[np.float32], variable: str, *, seed: int = 0
) -> DemographicsResult:
    """Compute the cross-validated accuracy of a variable.

    Args:
        rows: N images; the variable is one of their attributes.
        vectors: [N, D].
        variable: of :data:`VARIABLES`.
        seed: of the folds.

    Raises:
        LlavaRadError: if there are too few subjects or classes, or scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GroupKFold
    except ImportError:
        raise LlavaRadError("demographics need scikit-learn", hint="pip install 'llava-rad[probe]'") from None
    import warnings

    known = [(row, name) for row in rows if (name := class_of(variable, row.attributes.get(variable, ""))) is not None]
    numbers = {id(row): number for number, row in enumerate(rows)}
    places = np.array([numbers[id(row)] for row, _ in known], np.intp)
    classes = np.array([name for _, name in known])
    groups = [f"{row.dataset}/{row.subject}" if row.subject else f"row {numbers[id(row)]}" for row, _ in known]
    if len(set(groups)) < FOLDS or len(set(classes)) < 2:
        raise LlavaRadError(f"{variable}: {len(set(groups))} subjects of {len(set(classes))} classes are too few")
    accuracy, usual = [], []
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed)
    for inside, outside in folds.split(places, classes, groups):
        if len(set(classes[inside])) < 2:
            raise LlavaRadError(f"{variable}: the images of a training fold are all of one class")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 100 iterations often do not converge: the paper's setting
            model = LogisticRegression(max_iter=100).fit(vectors[places[inside]], classes[inside])
        accuracy.append(float(model.score(vectors[places[outside]], classes[outside])))
        most = Counter(classes[inside]).most_common(1)[0][0]
        usual.append(float(np.mean(classes[outside] == most)))
    counts = dict(sorted(Counter(classes.tolist()).items()))
    return DemographicsResult(variable, accuracy, usual, counts, len(places), len(set(groups)))
