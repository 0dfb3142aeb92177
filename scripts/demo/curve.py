"""Probes of encoders by the number of image views: labels, sex, tuberculosis, pneumonia of children, lungs.

Tasks; every prediction is for patients whom the fit has not seen:

  NIH 5 folds    14 labels, the split train; linear (logistic regression on CLS) and 20 nearest neighbours
  NIH val        the same, fitted on the split train
  Shenzhen, Montgomery   tuberculosis, five folds of each site
  Kermany        pneumonia, bacterial and viral, of children: fitted on 500 training images
  sex            five folds of NIH's images
  lung Dice      linear head on patch features, the masks' split test

The images are prepared once, and each encoder computes their features once, in bfloat16 (float32 where the
processor is slow in it). Measurements are kept in a
file for each encoder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from encoder.datasets.manifest import Row, read_manifest
from scripts.compare_encoders import lung_dice, means, sexes

if TYPE_CHECKING:
    from encoder.backbones.base import FrozenEncoder
    from encoder.preprocessing import Recipe
    from encoder.probing.allocation import Allocation
    from encoder.probing.segmentation.data import SegmentationSet
    from metrics.bootstrap import Interval
    from scripts.demo.growth import Point

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]
Log = Callable[[str], None]

SITES = ("shenzhen", "montgomery")
CHILDREN = {"train": 500, "val": 400}
"""Images of Kermany's set to fit on and to judge, at most."""
SEX, LUNGS = "sex accuracy", "lung Dice"


@dataclass(frozen=True)
class Task:
    """Labels that a frozen encoder's vectors predict.

    Attributes:
        name: of the task.
        allocation: images to fit on and to judge.
        neighbours: predict by the nearest neighbours in place of logistic regression.
    """

    name: str
    allocation: Allocation
    neighbours: bool = False

    def predict(self, vectors: Mapping[Path, Vectors]) -> Floats:
        """Predict all judged images by vectors of images; log-odds or shares of votes [J, L]."""
        from encoder.probing.linear import fit

        found = []
        for split in self.allocation.splits:
            inside, outside = (np.stack([vectors[row.path] for row in side]) for side in (split.train, split.judged))
            if self.neighbours:
                found.append(nearest(inside, split.truth(split.train), outside))
            else:
                found.append(fit(split, inside).odds(outside))
        return self.allocation.runs(found)[0]

    @property
    def patients(self) -> list[str]:
        """Patient of each judged image; "" if unknown."""
        return [f"{row.dataset}/{row.subject}" if row.subject else "" for row in self.allocation.judged]


def nearest(inside: Vectors, truth: Floats, outside: Vectors) -> Floats:
    """Predict labels by the votes of the nearest neighbours, as in DINO's protocol (Caron et al. 2021).

    Args:
        inside: [T, D].
        truth: [T, L], 1, 0 or NaN.
        outside: [J, D].

    Returns:
        [J, L], shares of votes.
    """
    import torch
    from torch.nn.functional import normalize

    from encoder.pretraining.probes import votes

    fit, judged = torch.from_numpy(inside).double(), torch.from_numpy(outside).double()
    centre = fit.mean(0)
    cosines = normalize(judged - centre, dim=1) @ normalize(fit - centre, dim=1).t()
    labels = torch.from_numpy(truth)
    known = (~labels.isnan()).double()
    columns = [votes(cosines, column.nan_to_num(0.0), one) for column, one in zip(labels.t(), known.t(), strict=True)]
    return torch.stack(columns, 1).numpy()


@dataclass
class Questions:
    """All tasks with their prepared images.

    Attributes:
        tasks: by labels.
        rows: N images of the tasks.
        pixels: [N, S, S].
        sexed: images of the task ``SEX``.
        masks: sets train, val and test of the task ``LUNGS``; may be empty.
        recipe: of the images.
    """

    tasks: tuple[Task, ...]
    rows: tuple[Row, ...]
    pixels: Pixels
    sexed: tuple[Row, ...]
    masks: tuple[SegmentationSet, ...]
    recipe: Recipe

    @classmethod
    def of(cls, manifests: Mapping[str, Path], recipe: Recipe, cache: Path, *, choosing: bool = False) -> Questions:
        """Read and prepare the images.

        Args:
            manifests: of ``scripts.demo.pretraining.write_manifests``; missing sets are skipped.
            recipe: of the encoders.
            cache: folder of the prepared images.
            choosing: training patients of NIH, Shenzhen and Montgomery alone, for a choice of settings.

        Raises:
            LlavaRadError: if an image cannot be read.
        """
        from encoder.probing.allocation import Allocation
        from encoder.probing.segmentation.data import by_split, read_segmentation_set
        from scripts.demo.pretraining import MASKS

        rows = {name: read_manifest(file) for name, file in manifests.items()}
        if choosing:
            rows = {name: [row for row in of if row.split == "train"] for name, of in rows.items()}
        labels = sorted({label for row in rows["nih"] for label in row.labels} - {"No Finding"})
        folds = Allocation.of(rows["nih"], labels, "train-folds", pooled=True)
        tasks = [Task("NIH 5 folds linear", folds), Task("NIH 5 folds kNN", folds, neighbours=True)]
        if not choosing:
            whole = Allocation.of(rows["nih"], labels)
            tasks += [Task("NIH val linear", whole), Task("NIH val kNN", whole, neighbours=True)]
        for site in SITES:
            if site in rows:
                tasks.append(Task(site, Allocation.of(rows[site], ["Tuberculosis"], "folds", pooled=True)))
        if "kermany" in rows and not choosing:
            children = [row for split, most in CHILDREN.items() for row in _some(rows["kermany"], split, most)]
            kinds = ["Pneumonia", "Bacterial pneumonia", "Viral pneumonia"]
            tasks.append(Task("Kermany", Allocation.of(children, kinds)))
        sexed = tuple(row for row in rows["nih"] if row.attributes.get("sex") in ("F", "M"))
        used = {row.path: row for task in tasks for row in task.allocation.rows} | {row.path: row for row in sexed}
        masked = [row for name in MASKS if name in rows and not choosing for row in rows[name] if "lungs" in row.masks]
        sets = tuple(read_segmentation_set(part, recipe, ("lungs",)) for part in by_split(masked)) if masked else ()
        pixels = _prepared(tuple(used.values()), recipe, cache / ("choosing.npy" if choosing else "all.npy"))
        return cls(tuple(tasks), tuple(used.values()), pixels, sexed, sets, recipe)

    def measure(self, encoder: FrozenEncoder, file: Path) -> dict[str, Floats]:
        """Measure an encoder, or read an earlier measurement from the file.

        Returns:
            Task -> predictions [J, L]; for ``SEX`` and ``LUNGS`` 1 or 0, or Dice, of each image.
        """
        from encoder.backbones.loading import in_fastest_form
        from encoder.probing.vectors import encode
        from encoder.runs.processor import fast_type

        if file.is_file():
            with np.load(file) as kept:
                return dict(kept)
        fast = in_fastest_form(encoder, size=self.recipe.size, device="cpu", dtype=fast_type())
        computed = encode(fast, self.pixels, self.recipe, 32, "cpu")
        vectors = {row.path: vector for row, vector in zip(self.rows, computed, strict=True)}
        found = {task.name: task.predict(vectors) for task in self.tasks}
        found[SEX], _ = sexes(self.sexed, np.stack([vectors[row.path] for row in self.sexed]))
        if self.masks:
            found[LUNGS] = lung_dice(encoder.to(fast_type()), self.recipe, self.masks)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".part.npz")
        np.savez(partial, allow_pickle=False, **found)
        partial.rename(file)
        return found


def _some(rows: Sequence[Row], split: str, most: int) -> list[Row]:
    """Choose at most so many images of a split, evenly spread; images of a patient may remain apart in one split."""
    chosen = [row for row in rows if row.split == split]
    return chosen[:: max(1, -(-len(chosen) // most))]


def _prepared(rows: Sequence[Row], recipe: Recipe, file: Path) -> Pixels:
    """Prepare images, or read those that were prepared before; a file of other images is replaced."""
    from encoder.reader.sandbox import Reader

    names = np.array([str(row.path) for row in rows])
    listed = file.with_suffix(".names.npy")
    if file.is_file() and listed.is_file() and np.array_equal(np.load(listed), names):
        return np.asarray(np.load(file, mmap_mode="r"))
    with Reader() as reader:
        pixels = np.stack([reader.prepare(row.path, recipe, force=True, **row.reading).pixels for row in rows])
    file.parent.mkdir(parents=True, exist_ok=True)
    listed.unlink(missing_ok=True)
    np.save(file, pixels)
    np.save(listed, names)
    return pixels


@dataclass(frozen=True)
class Curve:
    """Scores of encoders.

    Attributes:
        scores: encoder -> question -> score with its interval by patient (by image for Dice).
        gains: encoder -> question -> difference from the first encoder, paired.
    """

    scores: dict[str, dict[str, Interval]] = field(default_factory=dict)
    gains: dict[str, dict[str, Interval]] = field(default_factory=dict)


def compare(questions: Questions, measured: Mapping[str, Mapping[str, Floats]]) -> Curve:
    """Score measurements of encoders; the first one is what the others are compared with."""
    from llava_rad.probes import comparison
    from metrics.bootstrap import interval

    settings = comparison.bootstrap()
    curve = Curve({name: {} for name in measured}, {name: {} for name in list(measured)[1:]})
    first = next(iter(measured))
    for task in questions.tasks:
        people, labels = settings.patients(task.patients), task.allocation.labels
        drawn, points = {}, {}
        for name, of in measured.items():
            one = comparison.Predictions(labels, task.allocation.truth(), [of[task.name]], labels)
            drawn[name], points[name] = comparison.draws(one, people), comparison.points(one)
        for score in ("auroc",) if task.neighbours else ("auroc", "auprc"):
            key, question = (score, comparison.MACRO), f"{task.name} {score.upper()}"
            for name in measured:
                point = float(points[name][key][0])
                curve.scores[name][question] = interval(point, drawn[name].get(key))
                if name != first:
                    change = drawn[name][key] - drawn[first][key] if drawn[name] else None
                    curve.gains[name][question] = interval(point - float(points[first][key][0]), change)
    people_of_sex = [f"{row.dataset}/{row.subject}" if row.subject else "" for row in questions.sexed]
    for question, patients in ((SEX, people_of_sex), (LUNGS, None)):
        if question not in measured[first]:
            continue
        values = {name: of[question] for name, of in measured.items()}
        scores, gains = means(question, values, patients or [""] * len(values[first]))
        for name in scores:
            curve.scores[name] |= scores[name]
        for name in gains:
            curve.gains[name] |= gains[name]
    return curve


def strength(gains: Mapping[str, Interval]) -> float:
    """Mean over questions of the gain in standard errors (a quarter of the interval), to rank settings by all tasks."""
    found = []
    for one in gains.values():
        if one.point is not None and one.low is not None and one.high is not None and one.high > one.low:
            found.append(one.point / ((one.high - one.low) / 3.92))
    return float(np.mean(found)) if found else float("-inf")


def draw(curve: Curve, points: Sequence[Point], file: Path) -> None:
    """Plot every gain over the start by views, with intervals. Needs matplotlib (the extra ``plot``).

    Args:
        curve: of the start and the points.
        points: in the order of their views.
        file: PNG to write.
    """
    from matplotlib.figure import Figure

    questions = list(next(iter(curve.gains.values())))
    columns = 4
    rows = -(-len(questions) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.6 * rows), layout="constrained")
    for place, question in enumerate(questions):
        axes = figure.add_subplot(rows, columns, place + 1)
        views = [0, *(point.views for point in points)]
        gains = [curve.gains[point.name][question] for point in points]
        low, middle, high = (
            [0.0, *(100 * (getattr(one, part) or 0.0) for one in gains)] for part in ("low", "point", "high")
        )
        axes.fill_between(views, low, high, alpha=0.2)
        axes.plot(views, middle, marker="o", markersize=3)
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set_title(question, fontsize=9)
        axes.tick_params(labelsize=7)
    figure.supxlabel("image views", fontsize=9)
    figure.supylabel("gain over the start, x 100", fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def measure_all(
    questions: Questions, encoders: Mapping[str, str], folder: Path, log: Log = lambda line: None
) -> dict[str, dict[str, Floats]]:
    """Measure encoders, each once.

    Args:
        questions: all tasks.
        encoders: name -> source, as ``--encoder`` of llava-rad takes it.
        folder: of the measurements.
        log: called with a line for each encoder.
    """
    from encoder.backbones.loading import load_encoder

    found = {}
    for name, source in encoders.items():
        begin = time.perf_counter()
        file = folder / f"{name}.npz"
        kept = file.is_file()
        found[name] = questions.measure(load_encoder(source, offline=True), file)
        log(f"probes of {name}: " + ("kept" if kept else f"{time.perf_counter() - begin:.0f} s"))
    return found
