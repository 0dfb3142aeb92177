"""The linear probe of each encoder: images and labels of its runs, predictions and heads that are kept, tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from encoder.errors import LlavaRadError
from encoder.probing.published import column
from llava_rad.probes.folder import ProbeFolder, ProbeTable, mean_sd, paper_value
from llava_rad.probes.probing import Protocol, Vectors

if TYPE_CHECKING:
    from pathlib import Path

    from encoder.backbones.base import FrozenEncoder
    from encoder.datasets.manifest import Row
    from encoder.preprocessing import Recipe
    from encoder.probing.allocation import Allocation, How
    from encoder.probing.linear import Head, LinearConfig, LinearResult
    from llava_rad.probes.comparison import Predictions
    from llava_rad.probes.probing import Progress
    from metrics.bootstrap import Difference, Interval

PROTOCOLS: Final[dict[Protocol, str]] = {
    "paper": "AdamW, lr 5e-5, 100 epochs, batch 96, augmented images, 5 seeds (paper, E.3.1)",
    "cached": "the same on vectors that are computed once, without augmentation",
    "logistic": "penalised logistic regression on standardised vectors, penalty by cross-validation",
}
ALL: Final = "all"
ALLOCATION: Final[dict[str, How]] = {"candid-ptx": "folds", "rsna-pneumonia": "folds", "padchest-lateral": "draws"}
"""Allocation of the paper's data sets without a test split of their own; the others' is ``fifths``."""


@dataclass(frozen=True)
class Work:
    """A linear probe of the images of a manifest.

    Attributes:
        allocation: images of the runs.
        protocol: of the fit.
        config: of the training.
        vectors: of the images.
    """

    allocation: Allocation
    protocol: Protocol
    config: LinearConfig
    vectors: Vectors


def labels_of(names: Sequence[str], dataset: str, rows: Sequence[Row]) -> list[str]:
    """Return the labels to probe: those named, ``all``, or the paper's of the data set as the manifest spells them.

    Args:
        names: named labels; none takes the paper's, or all if there are none of these in the manifest.
        dataset: whose published numbers are shown.
        rows: of the manifest.
    """
    if names:
        return [] if list(names) == [ALL] else list(names)
    published = {name.lower() for name in column(dataset)}
    return sorted({label for row in rows for label in row.labels if label.lower() in published})


def averaged(labels: Sequence[str], dataset: str) -> tuple[tuple[str, ...], bool]:
    """Return the labels of the macro average, and whether they are those of the paper's.

    Args:
        labels: probed ones.
        dataset: whose published numbers are shown.
    """
    published = {name.lower() for name in column(dataset)} - {"macro"}
    chosen = tuple(label for label in labels if label.lower() in published)
    whole = bool(chosen) and len(chosen) == len(published)
    return (chosen, True) if whole else (tuple(labels), False)


def allocate(
    rows: Sequence[Row], labels: Sequence[str], protocol: Protocol, how: How | None, dataset: str, config: LinearConfig
) -> Allocation:
    """Divide the images for the runs, by default as in the paper; by ``logistic`` all training images serve one fit.

    Raises:
        LlavaRadError: as :meth:`encoder.probing.allocation.Allocation.of`.
    """
    from encoder.datasets.registry import DATASETS
    from encoder.datasets.splits import CLASSIFICATION
    from encoder.probing.allocation import Allocation

    known = DATASETS.get(dataset)
    shares = known.shares if known is not None and known.shares is not None else CLASSIFICATION
    alone = protocol == "logistic"
    how = how or ("whole" if alone else ALLOCATION.get(dataset, "fifths"))
    pooled = alone and how in ("folds", "train-folds")
    seeds = (0,) if alone and how == "whole" else config.seeds
    return Allocation.of(rows, labels, how, seeds=seeds, shares=shares, pooled=pooled)


def probe(
    encoder: FrozenEncoder, recipe: Recipe, work: Work, progress: Progress, folder: Path | None = None
) -> tuple[Allocation, LinearResult, list[Head]]:
    """Fit and evaluate the linear probe of one encoder on the images that can be read.

    Args:
        encoder: frozen.
        recipe: of the images.
        work: the probe.
        progress: takes a name and a number of steps, returns a function that counts completed steps.
        folder: for the state of runs on augmented images, whose every epoch is a pass of the encoder; a later call
            continues behind the last epoch.

    Returns:
        The images of the runs without unreadable ones, the scores, and the head of each split.
    """
    import torch

    from encoder.probing.augmented import AugmentedVectors
    from encoder.probing.linear import fit, judge, train

    every = work.allocation.rows
    found = work.vectors(encoder, every, recipe, progress("vectors", len(every)))
    absent = work.vectors.unreadable.reasons
    allocation = work.allocation.without(absent)
    place = {row.path: number for number, row in enumerate(every)}
    heads: list[Head] = []
    epochs = None
    augmented: AugmentedVectors | None = None
    rows = [row for row in every if row.path not in absent]
    if work.protocol == "paper":
        told = progress("images (train)", len(rows))
        augmented = AugmentedVectors(
            encoder, rows, recipe, work.vectors.cache, batch_size=work.vectors.batch_size, device=work.vectors.device,
            dtype=work.vectors.dtype, progress=told, digests=work.vectors.digests,
        )  # fmt: skip
    numbers = {row.path: number for number, row in enumerate(rows)}
    for number, (seed, split) in enumerate(zip(allocation.seeds, allocation.splits, strict=True)):
        fixed = found[[place[row.path] for row in split.train]]
        if work.protocol == "logistic":
            heads.append(fit(split, fixed))
            continue
        epochs = epochs or progress("epochs", work.config.epochs * len(allocation.splits))
        images, among = torch.from_numpy(fixed), np.array([numbers[row.path] for row in split.train], np.intp)

        def vectors(
            seed: int, epoch: int, batch: Any, images: torch.Tensor = images, among: Any = among
        ) -> torch.Tensor:
            return images[batch] if augmented is None else augmented(seed, epoch, among[batch])

        state = None if folder is None or augmented is None else folder / f"run-{number}.pt"
        heads.append(train(split, vectors, found.shape[1], work.config, seed, progress=epochs, state=state))
    odds = [
        head.odds(found[[place[row.path] for row in split.judged]])
        for head, split in zip(heads, allocation.splits, strict=True)
    ]
    return allocation, judge(allocation, odds, heads), heads


def keep(
    folder: ProbeFolder,
    name: str,
    weights: str,
    work: Work,
    dataset: str,
    found: tuple[Allocation, LinearResult, list[Head]],
) -> None:
    """Write predictions, heads and scores of one encoder.

    Args:
        folder: of the results.
        name: of the encoder.
        weights: key of encoder and recipe.
        work: the probe.
        dataset: whose published numbers are shown.
        found: result of :func:`probe`.
    """
    from encoder.probing.linear import heads_file
    from llava_rad.probes.predictions import predictions_file

    allocation, result, heads = found
    absent = work.vectors.unreadable
    digests = work.vectors.digests.of([row.path for row in allocation.judged])
    table = predictions_file(allocation, result.odds, digests)
    chosen, _ = averaged(allocation.labels, dataset)
    folder.write(f"predictions/{folder.slug(name)}.csv", table)
    folder.write(f"heads/{folder.slug(name)}.safetensors", heads_file(heads, allocation.labels, weights))
    facts = {key: value for key, value in asdict(result).items() if key != "odds"}
    macro = {score: result.macro(score, chosen) for score in ("auprc", "auroc")}
    more = {"macro": macro, "averaged": list(chosen), "predictions": hashlib.sha256(table).hexdigest()}
    folder.keep(name, weights, facts | more | {"unreadable": absent.lines(), "doubtful": absent.findings()})


@dataclass(frozen=True)
class Compared:
    """Intervals and differences of several encoders.

    Attributes:
        images: number of judged images.
        patients: number of patients among them.
        intervals: encoder -> (score, label) -> value with its interval.
        differences: (encoder, the one that it is compared with) -> (score, label) -> difference.
        signature: all choices of the intervals in one line.
    """

    images: int
    patients: int
    intervals: Mapping[str, Mapping[tuple[str, str], Interval]]
    differences: Mapping[tuple[str, str], Mapping[tuple[str, str], Difference]]
    signature: str

    def to_json(self) -> bytes:
        """Return all numbers; scores are fractions."""
        content = {
            "images": self.images,
            "patients": self.patients,
            "signature": self.signature,
            "encoders": {
                name: {"/".join(key): asdict(one) for key, one in table.items()}
                for name, table in self.intervals.items()
            },
            "differences": [
                {
                    "first": first,
                    "second": second,
                    "scores": {"/".join(key): asdict(one) | {"verdict": one.verdict} for key, one in table.items()},
                }
                for (first, second), table in self.differences.items()
            ],
        }
        return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def compare(
    allocation: Allocation, predictions: Mapping[str, Predictions], earlier: Mapping[str, Predictions]
) -> Compared:
    """Compare every encoder with the first one, and with those of an earlier run.

    Args:
        allocation: images of the runs.
        predictions: encoder -> its predictions.
        earlier: name -> predictions of an earlier run.

    Raises:
        LlavaRadError: if the runs or labels differ.
    """
    from llava_rad.probes import comparison
    from metrics.bootstrap import corrected

    settings = comparison.bootstrap()
    patients = settings.patients([f"{row.dataset}/{row.subject}" if row.subject else "" for row in allocation.judged])
    first = next(iter(predictions))
    pairs = [(name, base) for base in (first, *earlier) for name in predictions if name != base]
    everything = {**earlier, **predictions}
    tables = [
        comparison.differences(*_common(everything[name], everything[base]), patients=patients) for name, base in pairs
    ]
    by_name = [{"/".join(key): one for key, one in table.items()} for table in tables]
    holm = [{key: one["/".join(key)] for key in table} for table, one in zip(tables, corrected(by_name), strict=True)]
    return Compared(
        len(allocation.judged),
        len(patients),
        {name: comparison.intervals(one, patients) for name, one in everything.items()},
        dict(zip(pairs, holm, strict=True)),
        settings.comparisons,
    )


def _common(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions]:
    """Restrict predictions to the images that both have."""
    from dataclasses import replace

    if len(first.odds) != len(second.odds) or first.labels != second.labels:
        raise LlavaRadError("only probes with the same runs and labels can be compared")
    both = [np.isnan(one) | np.isnan(other) for one, other in zip(first.odds, second.odds, strict=True)]
    one, other = (
        replace(side, odds=[np.where(gone, np.nan, odds) for gone, odds in zip(both, side.odds, strict=True)])
        for side in (first, second)
    )
    return one, other


def linear_table(
    found: Mapping[str, Mapping[str, Any]], compared: Compared, allocation: Allocation, protocol: Protocol, dataset: str
) -> ProbeTable:
    """Tabulate AUPRC and AUROC of each label and encoder, then differences.

    Args:
        found: encoder -> facts of :func:`keep`.
        compared: intervals and differences.
        allocation: of the images.
        protocol: of the fit.
        dataset: whose published numbers are shown.
    """
    from encoder.probing.allocation import ALLOCATIONS
    from llava_rad.probes.comparison import MACRO

    papers = {what: column(dataset, auroc=what == "AUROC") for what in ("AUPRC", "AUROC")}
    papers = {what: published for what, published in papers.items() if published}
    chosen, same = averaged(allocation.labels, dataset)
    head = ["label", "positives", *(f"{name} {what}" for name in found for what in ("AUPRC", "AUROC"))]
    cells = [[*head, *(f"paper: RAD-DINO {what}" for what in papers)]]
    first = next(iter(found.values()))
    labels = [label for label in allocation.labels if all(label in one["auprc"] for one in found.values())]
    several = f"{MACRO} of {len(chosen)} labels"
    rows = [*((label, label) for label in labels), *([(several, MACRO)] if len(labels) > 1 else [])]
    for title, label in rows:
        numbers = [
            _cell(one["macro"][what] if label == MACRO else one[what][label], compared.intervals[name][what, label])
            for name, one in found.items()
            for what in ("auprc", "auroc")
        ]
        positives = "" if label == MACRO else f"{first['positives'][label]:,}"
        shown = [paper_value(one, label) if label != MACRO or same else "" for one in papers.values()]
        cells.append([title, positives, *numbers, *shown])
    if len(labels) > len(chosen):
        every = [
            mean_sd([float(np.mean(run)) for run in zip(*one[what].values(), strict=True)])
            for one in found.values()
            for what in ("auprc", "auroc")
        ]
        cells.append([f"{MACRO} of {len(labels)} labels", "", *every, *("" for _ in papers)])
    what = "fits" if allocation.pooled else "runs"
    several = "" if len(first["trained"]) == 1 else f" in each of {len(first['trained'])} {what}"
    more = "; the next one is left out of the training" if allocation.how in ("folds", "train-folds") else ""
    more = "; the predictions of all folds are judged together" if allocation.pooled else more
    trained = sum(first["trained"]) / len(first["trained"])
    known = np.isfinite(allocation.truth()).sum(0)
    unsure = {name: int(number) for name, number in zip(allocation.labels, known, strict=True) if name in labels}
    some = [f"{name} {number:,}" for name, number in unsure.items() if number < len(allocation.judged)]
    notes = [
        f"{trained:,.0f} training images{several}, {first['judged']:,} evaluated, of {compared.patients:,} patients "
        f"({allocation.splits[0].judged_on}). x 100, mean (standard deviation over runs) [95 % interval by patient].",
        f"Protocol {protocol}: {PROTOCOLS[protocol]}.",
        f"Allocation {allocation.how}: {ALLOCATIONS[allocation.how]}{more}.",
    ]
    if some:
        notes.append(
            f"Evaluated are the images whose label is 1 or 0, of {len(allocation.judged):,} images: {', '.join(some)}; "
            "uncertain and unknown ones are left out of the training of that label, too."
        )
    left_out = dict.fromkeys((*allocation.splits[0].left_out, *(x for x in allocation.labels if x not in labels)))
    if left_out:
        notes.append(f"Left out, since they are not both present and absent on both sides: {', '.join(left_out)}.")
    if MACRO in papers.get("AUPRC", ()) and not same:
        notes.append("The paper's macro average is not shown: it is of other labels.")
    then = _differences(compared, [(title, label) for title, label in rows]) if compared.differences else None
    return ProbeTable(f"Linear probe: {dataset or 'manifest'}", cells, tuple(notes), then)


def _differences(compared: Compared, rows: Sequence[tuple[str, str]]) -> ProbeTable:
    pairs = compared.differences
    cells = [["label", *(f"{first} - {second} {what}" for first, second in pairs for what in ("AUPRC", "AUROC"))]]
    for title, label in rows:
        numbers = [_change(table[what, label]) for table in pairs.values() for what in ("auprc", "auroc")]
        cells.append([title, *numbers])
    several = ", corrected for the encoders compared (Holm)" if len(pairs) > 1 else ""
    notes = (
        f"x 100, [95 % interval], p by exchanging the two encoders' ranks of a patient{several}, not "
        "corrected for labels. Heads are fixed: intervals show the choice of patients, not that of training images.",
    )
    return ProbeTable("Paired differences by patient", cells, notes)


def _cell(values: Sequence[float], interval: Interval) -> str:
    ends = "" if interval.low is None or interval.high is None else _ends(interval.low, interval.high, "")
    return mean_sd(values) + ends


def _change(one: Difference) -> str:
    if one.point is None:
        return ""
    ends = "" if one.low is None or one.high is None else _ends(one.low, one.high, "+")
    p = "" if one.p_holm is None else f" p {one.p_holm:.3f}"
    return f"{100 * one.point:+.1f}{ends}{p}"


def _ends(low: float, high: float, sign: str) -> str:
    return f" [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"
