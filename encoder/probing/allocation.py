"""Images that each run of a linear probe trains on and judges.

The paper says "5-fold cross-validation" (E.3.1), "five runs with different random seeds" (table 1), "5-different seeds
and training splits" (B.1), "60/20/20 split by subject" (table 1b) and "80/10/10% for each random allocation by subject"
(C.3). All of these hold if VinDr-CXR's test images are fixed and each run leaves another fifth of the training images
out for validation; if RSNA and CANDID-PTX are divided into five folds, of which each run judges one and leaves the next
out for validation; and if PadChest's laterals are divided anew for each run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from encoder.datasets.manifest import Row
from encoder.datasets.splits import CLASSIFICATION, Shares, disjoint, disjoint_contents, split_by_subject
from encoder.errors import LlavaRadError
from encoder.probing.logistic import FOLDS, folds

Floats = npt.NDArray[np.float64]
How = Literal["whole", "fifths", "folds", "train-folds", "draws"]
ALLOCATIONS: Final[dict[str, str]] = {
    "whole": "every run trains on all images of the split train",
    "fifths": "every run leaves another fifth of the training subjects out",
    "folds": "every run judges another of five folds of all subjects",
    "train-folds": "every run judges another of five folds of the subjects of the split train",
    "draws": "every run draws its training, validation and test subjects anew",
}
"""Images of the runs of a probe. With folds each run also leaves the next one out of its training, for validation; if
their predictions are pooled to one run, none is left out."""


@dataclass(frozen=True)
class Split:
    """Labelled images for training and evaluation.

    Attributes:
        train: T images.
        judged: J evaluation images of other subjects.
        labels: names of the L labels that have both classes in both parts.
        left_out: names of the other labels.
        judged_on: split of the evaluation images, ``test`` or ``val``; ``folds`` if they are of several.
    """

    train: tuple[Row, ...]
    judged: tuple[Row, ...]
    labels: tuple[str, ...]
    left_out: tuple[str, ...]
    judged_on: str

    @classmethod
    def of(cls, rows: Sequence[Row], labels: Sequence[str] = ()) -> Split:
        """Select training and test images of a manifest; ``val`` replaces a missing ``test``.

        Args:
            rows: with splits and labels; 1 and 0 count, others are unknown.
            labels: names; empty for all.

        Raises:
            LlavaRadError: if a split is missing, a subject is in two of them, or no label can be evaluated.
        """
        return Allocation.of(rows, labels).splits[0]

    def truth(self, rows: Sequence[Row]) -> Floats:
        """Return labels [N, L]: 1, 0, or NaN if unknown."""
        return truth_of(rows, self.labels)


@dataclass(frozen=True)
class Allocation:
    """Images of each run of a probe.

    Attributes:
        manifest: all images.
        rows: those that a run may train on or judge.
        how: of :data:`ALLOCATIONS`.
        splits: R splits with the same L labels, one for each seed.
        judged: J images that are judged in a run, in the order of the manifest.
        pooled: the splits are folds whose predictions are judged together, as one run.
        seeds: one for each split.
        shares: of the subjects, for ``draws``.
    """

    manifest: tuple[Row, ...]
    rows: tuple[Row, ...]
    how: How
    splits: tuple[Split, ...]
    judged: tuple[Row, ...]
    pooled: bool = False
    seeds: tuple[int, ...] = (0,)
    shares: Shares = CLASSIFICATION

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        labels: Sequence[str] = (),
        how: How = "whole",
        *,
        seeds: Sequence[int] = (0,),
        shares: Shares = CLASSIFICATION,
        pooled: bool = False,
    ) -> Allocation:
        """Divide the images of a manifest for the runs of a probe.

        Args:
            rows: with splits and labels; 1 and 0 count, others are unknown.
            labels: names; empty for all.
            how: of :data:`ALLOCATIONS`.
            seeds: one run for each. Folds and fifths number s are of the division number s // 5.
            shares: of the subjects in training, validation and test, for ``draws``.
            pooled: judge the predictions of five folds together; the seeds are the folds then.

        Raises:
            LlavaRadError: if a split is missing, a subject is in two of them, or no label can be evaluated.
        """
        disjoint(rows)
        seeds = range(FOLDS) if pooled else seeds
        name = next((name for name in ("test", "val") if any(row.split == name for row in rows)), "")
        if how in ("whole", "fifths") and not (name and any(row.split == "train" for row in rows)):
            raise LlavaRadError("the manifest needs images of the split train, and of test or val")
        parts = [_divide(rows, how, name, seed, shares, pooled=pooled) for seed in seeds]
        judged = tuple(rows[place] for place in sorted({place for _, judged in parts for place in judged}))
        among = {"train", name} if how in ("whole", "fifths") else {"train"} if how == "train-folds" else None
        used = [row for row in rows if among is None or row.split in among]
        if not used:
            raise LlavaRadError("the manifest needs images of the split train")
        known = sorted({label for row in used for label in row.labels})
        if odd := [label for label in labels if label not in known]:
            raise LlavaRadError(f"the manifest has no label {odd[0]!r}", hint=f"it has {', '.join(known) or 'none'}")
        sides = [[rows[place] for place in side] for part in parts for side in (part[:1] if pooled else part)]
        wanted = list(labels) or known
        usable = [label for label in wanted if all(_both(side, label) for side in (*sides, judged))]
        if not usable:
            raise LlavaRadError("no label of the manifest is both present and absent in the training and judged images")
        left_out = tuple(label for label in wanted if label not in usable)
        splits = tuple(
            Split(
                tuple(rows[place] for place in fit),
                tuple(rows[place] for place in held),
                tuple(usable),
                left_out,
                name if how in ("whole", "fifths") else "folds" if how != "draws" else "test",
            )
            for fit, held in parts
        )
        return cls(tuple(rows), tuple(used), how, splits, judged, pooled, tuple(seeds), shares)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the L labels that have both classes in both parts of every run."""
        return self.splits[0].labels

    def without(self, absent: Collection[Path]) -> Allocation:
        """Leave images out by their paths, as if the manifest did not have them.

        Raises:
            LlavaRadError: as :meth:`of`.
        """
        if not absent:
            return self
        return Allocation.of(
            [row for row in self.manifest if row.path not in absent],
            self.labels,
            self.how,
            seeds=self.seeds,
            shares=self.shares,
            pooled=self.pooled,
        )

    def check_contents(self, digests: Mapping[Path, str]) -> None:
        """Check that no run judges a picture that it trains on under another name.

        Args:
            digests: hash of each image file.

        Raises:
            LlavaRadError: if files of both sides have equal hashes; the message lists the first of them.
        """
        for split in self.splits:
            sides = (("train", split.train), ("judged", split.judged))
            rows = [replace(row, split=name) for name, side in sides for row in side]
            disjoint_contents(rows, [digests[row.path] for row in rows])

    def truth(self) -> Floats:
        """Return labels [J, L] of the judged images: 1, 0, or NaN if unknown."""
        return truth_of(self.judged, self.labels)

    def runs(self, odds: Sequence[Floats]) -> list[Floats]:
        """Return log-odds [J, L] of each run, NaN for images that it does not judge, from those of each split."""
        place = {row.path: number for number, row in enumerate(self.judged)}
        found: list[Floats] = []
        for split, one in zip(self.splits, odds, strict=True):
            if not (self.pooled and found):
                found.append(np.full((len(self.judged), len(self.labels)), np.nan))
            found[-1][[place[row.path] for row in split.judged]] = one
        return found


def _divide(
    rows: Sequence[Row], how: How, judged_on: str, seed: int, shares: Shares, *, pooled: bool
) -> tuple[list[int], list[int]]:
    """Return the numbers of one run's training and evaluation images."""
    if how == "draws":
        names = [row.split for row in split_by_subject(rows, shares, seed)]
        return [n for n, name in enumerate(names) if name == "train"], [
            n for n, name in enumerate(names) if name == "test"
        ]
    train = [number for number, row in enumerate(rows) if row.split == "train"]
    judged = [number for number, row in enumerate(rows) if row.split == judged_on]
    if how == "whole":
        return train, judged
    among = list(range(len(rows))) if how == "folds" else train
    # a row of unknown subject is a group of its own
    turn = folds([(rows[n].dataset, rows[n].subject or n) for n in among], seed // FOLDS)
    fold, after = seed % FOLDS, (seed + 1) % FOLDS
    inside = {n: int(one) for n, one in zip(among, turn, strict=True)}
    if how == "fifths":
        return [n for n in among if inside[n] != fold], judged
    left = {fold} if pooled else {fold, after}
    return [n for n in among if inside[n] not in left], [n for n in among if inside[n] == fold]


def truth_of(rows: Sequence[Row], labels: Sequence[str]) -> Floats:
    """Return labels [N, L] of images: 1, 0, or NaN if unknown."""
    return np.array([[_value(row, label) for label in labels] for row in rows], np.float64)


def _value(row: Row, label: str) -> float:
    value = row.labels.get(label)
    return float(value) if value in (0, 1) else np.nan


def _both(rows: Sequence[Row], label: str) -> bool:
    return {0.0, 1.0} <= {_value(row, label) for row in rows}
