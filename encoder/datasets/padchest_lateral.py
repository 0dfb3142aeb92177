"""PadChest's lateral images for three findings that lateral views show well (paper, C.3), with as many negatives.

For each finding the positive images are all lateral ones with that label; as many negatives are drawn from the lateral
images with none of the three findings, for each finding on its own, so that an image may serve several of them. The
other labels are unknown: C.3 says that not all labels are present for each image. Images whose labels say nothing about
absence ("unchanged", "exclude", "suboptimal study", none at all) are not drawn. The split is 80/10/10 by subject.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from encoder.datasets import padchest
from encoder.datasets.manifest import Row
from encoder.datasets.mask_files import MaskFiles

FINDINGS = ("vertebral degenerative changes", "pleural effusion", "costophrenic angle blunting")
_SILENT = {"unchanged", "exclude", "suboptimal study"}


def read(root: Path, masks: MaskFiles, seed: int) -> Iterator[Row]:
    """Rows in the table's order; the seed draws the negatives. The data set is called padchest: subjects are the same.

    Where there are fewer negatives than positives, all are taken.
    """
    lateral = [(row, found) for row, found in padchest.labelled(root) if row.view == "lateral" and found]
    pool = [row for row, found in lateral if not found & (_SILENT | set(FINDINGS))]
    labels: dict[int, dict[str, float | None]] = {}
    for finding in FINDINGS:
        positive = [row for row, found in lateral if finding in found]
        negative = sorted(pool, key=lambda row: _place(seed, finding, row.image))[: len(positive)]
        for value, rows in ((1.0, positive), (0.0, negative)):
            for row in rows:
                labels.setdefault(row.number, dict.fromkeys(FINDINGS))[finding] = value
    for row, _ in lateral:
        if row.number in labels:
            yield replace(row, labels=labels[row.number])


def _place(seed: int, finding: str, image: str) -> bytes:
    return hashlib.blake2b("\0".join((str(seed), finding, image)).encode(), digest_size=16).digest()
