"""Time reports against transformers on the same parts, and the cold start of the command line.

    python -m scripts.bench.generate [--model DIR-OR-HUB-ID] [--json FILE]

The peer is the plain way: ``Dinov2Model``, the projector, ``LlamaForCausalLM.generate``, image after image. It is also
timed over the same batches. Sides take turns; exits 1 unless all give the same tokens in float32.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from scripts.bench.harness import Report, equal_rows, median, parser, ratio, seconds, time_calls

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.preprocessing import Recipe
    from llava_rad.generation.engine import Engine
    from llava_rad.generation.options import Decoding

    Images = Sequence[npt.NDArray[np.uint8]]

BATCHES = (1, 4, 16)
IMAGES = 16

Rows = list[list[int]]
Run = Callable[[Any], Rows]


def crops_of_the_example(recipe: Recipe, count: int) -> list[npt.NDArray[np.uint8]]:
    """Different crops of the real radiograph RG1, prepared by a recipe."""
    import numpy as np

    from encoder.reader.sandbox import Reader
    from llava_rad.generation.sources import example

    with Reader() as reader:
        pixels = reader.read(example()).pixels
    rng = np.random.default_rng(0)
    height, width = pixels.shape
    crops = []
    for _ in range(count):
        share = rng.uniform(0.6, 0.95)
        top, left = (int(rng.uniform(0, side * (1 - share))) for side in (height, width))
        crops.append(recipe.apply(pixels[top : top + int(height * share), left : left + int(width * share)]))
    return crops


def in_batches(run: Run, images: Images, size: int) -> Callable[[], Rows]:
    """A call that writes the token ids of all images, batch after batch."""
    return lambda: [row for at in range(0, len(images), size) for row in run(images[at : at + size])]


def ours(engine: Engine, settings: Decoding) -> Run:
    """Our generation."""
    from llava_rad.generation.decoding import generate

    return lambda images: [list(draft.ids) for draft in generate(engine, images, settings)]


def peer(source: str | None, settings: Decoding, dtype: str = "float32") -> Run:
    """Transformers' own classes and loop over the same checkpoint."""
    import numpy as np
    import torch

    from llava_rad.generation.engine import DTYPES
    from llava_rad.model.llava_rad import LlavaRad

    model = LlavaRad.from_pretrained(source, dtype=DTYPES[dtype])
    recipe, ids = model.config.preprocessing, model.tokens.ids
    chunks = model.config.conversation.encode(model.tokens.tokenizer, ids.bos)

    @torch.inference_mode()
    def run(images: Images) -> Rows:
        embeds, mask = model.embed(recipe.normalise(np.stack(images)), [chunks] * len(images))
        rows: Rows = model.language_model.generate(
            inputs_embeds=embeds, attention_mask=mask, max_new_tokens=settings.max_new_tokens, do_sample=False
        ).tolist()
        return [row[: row.index(ids.eos)] if ids.eos in row else row for row in rows]

    return run


def throughput(report: Report, options: argparse.Namespace) -> bool:
    """Time ours and the peer at each batch size; true if all give the same tokens."""
    from llava_rad.generation.engine import Engine
    from llava_rad.generation.options import Decoding

    settings = Decoding(max_new_tokens=options.max_new_tokens)
    engine = Engine.from_pretrained(options.model, device="cpu", dtype="float32")
    count = 4 if options.quick else IMAGES
    images = crops_of_the_example(engine.recipe, count)
    runs = {"ours": ours(engine, settings), "transformers": peer(options.model, settings)}
    calls = {f"{name}, batch {b}": in_batches(run, images, b) for name, run in runs.items() for b in BATCHES}
    tokens = {name: call() for name, call in calls.items()}  # also warms up
    reference = tokens[plain := "transformers, batch 1"]
    lengths = statistics.mean(map(len, reference))
    report.say(
        f"\nmodel {engine.model_id!r}: {len(set(map(tuple, reference)))} different reports, {lengths:.1f} tokens"
    )
    columns = {"s, minimum": ".3f", "s": ".3f", "reports/s": ".2f", "x plain loop": "", "identical": "d"}
    report.table("throughput", columns, f"seconds per report, {count} images")
    times = time_calls(calls, options.rounds, warmup=0)
    for name, costs in times.items():
        each = median(costs) / count
        speed = {"x plain loop": ratio(seconds(times[plain]), seconds(costs)), "rounds": costs}
        row = {"s, minimum": min(seconds(costs)) / count, "s": each, "reports/s": 1 / each}
        report.row(name, row | speed | {"identical": equal_rows(tokens[name], reference)})
    return all(rows == reference for rows in tokens.values())


def cold_start(report: Report, options: argparse.Namespace) -> None:
    """Time the command in a fresh process against ``import torch, transformers``."""
    command = [sys.executable, "-c", "from llava_rad.cli import main; main()", "generate", "--example", "--offline"]
    commands = {
        "llava-rad generate --example": [*command, *(["--model", options.model] if options.model else [])],
        "import torch, transformers": [sys.executable, "-c", "import torch, transformers"],
    }
    calls = {name: partial(subprocess.run, line, check=True, capture_output=True) for name, line in commands.items()}
    times = {name: seconds(costs) for name, costs in time_calls(calls, options.rounds).items()}
    report.table("cold_start", {"minimum": ".2f", "median": ".2f", "x imports": ""}, "cold start, seconds")
    imports = times["import torch, transformers"]
    for name, each in times.items():
        row = {"minimum": min(each), "median": statistics.median(each), "x imports": ratio(each, imports)}
        report.row(name, row)


def main() -> int:
    """Print both tables; exit code 1 where tokens differ."""
    made = parser(__doc__, rounds=5, quick="4 images, one round")
    made.add_argument("--model", default=None, help="checkpoint; default: the embedded one")
    made.add_argument("--max-new-tokens", type=int, default=150)
    options = made.parse_args()
    options.rounds = 1 if options.quick else options.rounds

    from transformers.utils.logging import disable_progress_bar

    report = Report(options)
    cold_start(report, options)
    disable_progress_bar()
    same = throughput(report, options)
    report.close()
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
