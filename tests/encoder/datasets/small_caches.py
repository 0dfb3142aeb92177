"""Pictures and pixel caches of some of them, small enough for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from encoder.datasets.cache_building import Builder
from encoder.datasets.manifest import Row
from encoder.datasets.pixel_cache import Cache
from tests.encoder import dicom_files

SIZE = 56


def png(path: Path, seed: int = 0, shape: tuple[int, int] = (72, 90)) -> Row:
    """A smooth 8-bit picture as a row."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 7), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).resize(shape[::-1], Image.Resampling.BILINEAR).save(path)
    return Row(path, "set", f"subject {seed}", "", path.name, number=seed + 1)


def pictures(folder: Path, number: int) -> list[Row]:
    return [png(folder / f"JANE-{i}.png", i, (64 + i, 96 - i)) for i in range(number)]


def dicom(path: Path, values: np.ndarray | None = None, **attributes: object) -> Row:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dicom_files.chest(values, **attributes))
    return Row(path, image=path.name)


def builder(rows: list[Row], folder: Path, **options: object) -> Builder:
    return Builder(rows, folder, **({"size": SIZE, "workers": 2} | options))  # type: ignore[arg-type]


def make(rows: list[Row], folder: Path, **options: object) -> Cache:
    return builder(rows, folder, **options).cache()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".lock")}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir() if path.name != ".lock"
    }


def pixels_of(cache: Cache) -> list[bytes]:
    return [cache.image(i).tobytes() for i in range(len(cache))]
