"""A run small enough for tests: seconds on one core."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from encoder.pretraining.config import PretrainingConfig, load_config


def write_images(folder: Path, count: int = 12, size: int = 64) -> Path:
    """Grey pictures with blobs, by number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        pixels = np.kron(rng.integers(0, 256, (8, 8)), np.ones((size // 8, size // 8))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


def small_config(images: Path, *overrides: str) -> PretrainingConfig:
    """A two-block transformer, crops of 28 and 14 px, 32 prototypes."""
    return load_config(
        "tiny",
        [
            "model.hidden_size=24",
            "model.num_hidden_layers=2",
            "model.num_attention_heads=2",
            "model.image_size=28",
            f"data.folder={images}",
            "data.size=56",
            "data.workers=0",
            "crops.global_size=28",
            "crops.local_size=14",
            "crops.local_crops=2",
            "head.prototypes=32",
            "head.hidden_size=16",
            "head.bottleneck=8",
            "optimization.batch_size=4",
            "optimization.steps=6",
            "optimization.warmup_steps=2",
            "optimization.freeze_last_layer_steps=2",
            "engine.checkpoint_every=2",
            "engine.log_every=1",
            *overrides,
        ],
    )
