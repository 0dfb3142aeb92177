"""Small radiographs with short reports, as a table of pairs: bright or dark, with a left or a right blob."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from encoder.datasets.manifest import Row
from llava_rad.reports.pairs import Pair, write_pairs

REPORTS = (
    "The lungs are clear. There is no pleural effusion.",
    "There is a large left pleural effusion.",
    "A right chest tube is seen. There is a small right pneumothorax. The heart is enlarged.",
    "There is pulmonary edema. The cardiac silhouette is enlarged.",
    "No pneumothorax.",
    "A mass is present in the right upper lung. No pleural effusion or pneumothorax is seen.",
    "There is dense consolidation in the left lower lung. The heart is normal in size.",
    "Lungs are clear and well expanded. Heart size is normal. The osseous structures are intact.",
)


def image(number: int, size: int = 64) -> np.ndarray:
    """A noisy picture with a bright square whose place and size depend on the number."""
    dice = np.random.default_rng(number)
    pixels = dice.integers(20, 60, (size, size)).astype(np.uint8)
    side = 10 + 6 * (number % 4)
    top, left = divmod(number % 16, 4)
    pixels[top * 10 : top * 10 + side, left * 12 : left * 12 + side] = 200
    return pixels


def make(folder: Path, train: int = 8, val: int = 4, test: int = 0) -> Path:
    """Write images and their table; reports repeat after eight.

    Returns:
        ``pairs.jsonl``.
    """
    pairs = []
    splits = ["train"] * train + ["val"] * val + ["test"] * test
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, split in enumerate(splits):
        path = folder / "images" / f"{number}.png"
        Image.fromarray(image(number)).save(path)
        row = Row(path, "small", f"patient {number}", f"study {number}", f"image {number}", "PA", split)
        pairs.append(Pair(row, REPORTS[number % len(REPORTS)]))
    table = folder / "pairs.jsonl"
    write_pairs(pairs, table)
    return table


def overrides(table: Path, checkpoint: Path | None, *more: str) -> list[str]:
    """Changes to the configuration ``tiny`` for runs of seconds."""
    return [
        f"data.pairs=[{table}]",
        *([] if checkpoint is None else [f"model.checkpoint={checkpoint}"]),
        "optimization.batch_size=4",
        "optimization.micro_batch_size=2",
        "optimization.epochs=2",
        "engine.log_every=1",
        "evaluation.samples=2",
        "evaluation.max_new_tokens=12",
        "data.max_length=512",
        *more,
    ]
