"""Time the images of pre-training: building the pixel cache, copying it, reading it, and cutting crops.

    python -m scripts.bench.data [--images 48] [--workers 2] [--folder DIR] [--json FILE]

Images are 16-bit PNG files of 2,000 x 2,400 pixels, and the cache has 518. "build" decodes with as many processes as
``--workers``; "copy" compares SHA-256; "read" is one image in random order, "read by mmap" the same by page faults;
"crops" is 2 of 518 and 8 of 196 pixels of each image with all augmentations, in one process and in workers. The files
were just written: they come from memory unless ``--folder`` is on a disk without a cache of its own.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from encoder.datasets.cache_building import Builder
from encoder.datasets.manifest import Row
from encoder.datasets.pixel_cache import Cache, stage
from encoder.pretraining.config import load_config
from encoder.pretraining.data import Batch, batches
from scripts.bench.harness import Report, parser, require

COLUMNS = {"per s": ".1f", "s": ".4f", "least s": ".4f", "CPU s": ".4f"}


def pictures(folder: Path, count: int, height: int, width: int) -> list[Row]:
    """Smooth 16-bit pictures with noise in the last bits."""
    rows = []
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 60000, (9, 11)).astype(np.float32))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 65000)
        path = folder / f"{number}.png"
        Image.fromarray((smooth + rng.integers(0, 64, smooth.shape)).astype(np.uint16)).save(path)
        rows.append(Row(path, image=path.name))
    return rows


def mapped(cache: Cache) -> Callable[[int], int]:
    """Sum an image's pixels by mapping the files into memory."""
    shards = {path.name: np.memmap(path, np.uint8, "r") for path in cache.folder.glob("*.bin")}

    def read(i: int) -> int:
        _, shard, height, width, offset, _ = cache.index[i].item()
        return int(shards[f"shard-{shard:05d}.bin"][offset : offset + height * width].sum())

    return read


def main() -> None:
    """Measure and print."""
    command = parser(__doc__, rounds=5, quick="8 small images, one round")
    command.add_argument("--images", type=int, default=48, help="default: 48")
    command.add_argument("--workers", type=int, default=2, help="default: 2")
    command.add_argument("--folder", type=Path, help="for the files; default: the folder for temporary ones")
    options = command.parse_args()
    count, rounds, side = (8, 1, 56) if options.quick else (options.images, options.rounds, 518)
    report = Report(options)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        rows = pictures(folder, count, *((90, 110) if options.quick else (2000, 2400)))

        def built() -> Cache:
            shutil.rmtree(folder / "cache", ignore_errors=True)
            return Builder(rows, folder / "cache", size=side, workers=options.workers).cache()

        def copied() -> Cache:
            shutil.rmtree(folder / "disk", ignore_errors=True)
            return stage(cache, folder / "disk", waiting=lambda: None)

        cache = built()
        report.table("images", COLUMNS, f"per image of {side} pixels")
        report.race({"build": built, "copy": copied}, rounds, count=count)
        order = np.random.default_rng(0).permutation(count).tolist()
        by_map = mapped(cache)
        require(all(by_map(i) == int(cache.image(i).sum()) for i in order), "reading and mapping differ")
        sides = {"read": lambda: [cache.image(i).sum() for i in order], "read by mmap": lambda: [*map(by_map, order)]}
        report.race(sides, rounds, count=count)

        def crops(workers: int) -> Iterator[Batch]:
            size = ["crops.global_size=28", "crops.local_size=14", "model.image_size=28"] if options.quick else []
            settings = ["optimization.batch_size=8", f"data.workers={workers}", *size]
            return batches(cache, load_config("rad-dino", settings), step=0)

        batch_count = count // 8
        for workers in (0, options.workers):
            stream = crops(workers)
            next(stream)

            turn = {f"crops, {workers} workers": lambda stream=stream: [*islice(stream, batch_count)]}
            report.race(turn, rounds, count=8 * batch_count)
            stream.close()  # type: ignore[attr-defined]
    report.close()


if __name__ == "__main__":
    main()
