"""Small drawn images with labels, attributes and masks, and small encoders: inputs of probes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from encoder.datasets.manifest import Row, write_manifest

IMAGES = 48


def manifest(folder: Path) -> Path:
    """Bright images have the label A and are of women; B is noise, C is always absent."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(IMAGES):
        bright = number % 2
        pixels = generator.integers(0, 80, (80, 80)) + 120 * bright * (np.arange(80) > 40)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        labels = {"A": float(bright), "B": float(generator.integers(0, 2)), "C": 0.0, "No Finding": 1.0 - bright}
        rows.append(
            Row(
                folder / f"{number}.png", "vindr-cxr", f"p{number}", image=f"i{number}",
                split="train" if number < 32 else "test", labels=labels, number=number + 1,
                attributes={"sex": "MF"[bright], "age": str(20 + number)},
            )
        )  # fmt: skip
    write_manifest(rows, folder / "m.csv")
    return folder / "m.csv"


def encoders(folder: Path) -> list[Path]:
    """Two small encoders with random weights in RAD-DINO's form."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        config = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
        Dinov2Model(config).save_pretrained(folder / name)
    return [folder / "first", folder / "second"]


def masked(folder: Path) -> Path:
    """Dark squares in bright noise, with their masks; 12 training, 4 validation, 6 test images."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(22):
        pixels, mask = generator.integers(150, 255, (84, 84)), np.zeros((84, 84), np.uint8)
        top, left = generator.integers(0, 42, 2)
        pixels[top : top + 42, left : left + 42] -= 140
        mask[top : top + 42, left : left + 42] = 255
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        Image.fromarray(mask).save(folder / f"{number}-mask.png")
        split = "train" if number < 12 else "val" if number < 16 else "test"
        rows.append(
            Row(
                folder / f"{number}.png", "d", f"p{number}", split=split, number=number + 1,
                masks={"square": folder / f"{number}-mask.png"}, attributes={"sex": "MF"[number % 2]},
            )
        )  # fmt: skip
    write_manifest(rows, folder / "m.csv")
    return folder / "m.csv"
