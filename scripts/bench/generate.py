"""Time reports against transformers on the same parts, and the cold start of the command line.

    python -m scripts.bench.generate [--model DIR-OR-HUB-ID] [--json FILE]

The peer is the plain way: ``Dinov2Model``, the projector, ``LlamaForCausalLM.generate``, image after image. It is also
timed over the same batches. Sides take turns; exits 1 unless all give the same tokens in float32.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from scripts.bench.harness import Report, equal_rows, parser

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.preprocessing import Recipe
    from llava_rad.generation.engine import Engine
    from llava_rad.generation.options import Decoding

    Images = Sequence[npt.NDArray[np.uint8]]

BATCHES = (1, 4, 16)
COLUMNS = {"s": ".3f", "least s": ".3f", "per s": ".2f", "x speed": "", "x CPU speed": "", "identical": "d"}

Rows = list[list[int]]
Write = Callable[[], Rows]


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


def in_batches(run: Callable[[Any], Rows], images: Images, size: int) -> Write:
    """A call that writes the token ids of all images, batch after batch."""
    return lambda: [row for at in range(0, len(images), size) for row in run(images[at : at + size])]


def ours(engine: Engine, settings: Decoding, images: Images, size: int) -> Write:
    """Our generation."""
    from llava_rad.generation.decoding import generate

    return in_batches(lambda some: [list(draft.ids) for draft in generate(engine, some, settings)], images, size)


def peer(source: str | None, settings: Decoding, images: Images, size: int, dtype: str = "float32") -> Write:
    """Transformers' own classes and loop over the same checkpoint."""
    import numpy as np
    import torch

    from llava_rad.generation.engine import DTYPES
    from llava_rad.model.llava_rad import LlavaRad

    model = LlavaRad.from_pretrained(source, dtype=DTYPES[dtype])
    recipe, ids = model.config.preprocessing, model.tokens.ids
    chunks = model.config.conversation.encode(model.tokens.tokenizer, ids.bos)

    @torch.inference_mode()
    def run(some: Images) -> Rows:
        embeds, mask = model.embed(recipe.normalise(np.stack(some)), [chunks] * len(some))
        rows: Rows = model.language_model.generate(
            inputs_embeds=embeds, attention_mask=mask, max_new_tokens=settings.max_new_tokens, do_sample=False
        ).tolist()
        return [row[: row.index(ids.eos)] if ids.eos in row else row for row in rows]

    return in_batches(run, images, size)


def race(report: Report, name: str, calls: dict[str, Write], rounds: int, baseline: str) -> dict[str, Rows]:
    """Time the sides in turns; returns their token ids."""
    tokens = {side: call() for side, call in calls.items()}  # also warms up
    reference = tokens[baseline]
    lengths = statistics.mean(map(len, reference))
    report.say(f"\n{len(reference)} images, {len(set(map(tuple, reference)))} reports, {lengths:.1f} tokens each")
    report.table(name, COLUMNS, f"per report; ratios to {baseline}")
    facts = {side: {"identical": equal_rows(rows, reference)} for side, rows in tokens.items()}
    report.race(calls, rounds, baseline, count=len(reference), facts=facts)
    return tokens


def main() -> int:
    """Print both tables; exit code 1 where tokens differ."""
    made = parser(__doc__, rounds=5, quick="4 images, one round")
    made.add_argument("--model", default=None, help="checkpoint; default: the embedded one")
    options = made.parse_args()
    count, rounds = (4, 1) if options.quick else (16, options.rounds)

    from transformers.utils.logging import disable_progress_bar

    from llava_rad.generation.engine import Engine
    from llava_rad.generation.options import Decoding

    report = Report(options)
    command = [sys.executable, "-c", "from llava_rad.cli import main; main()", "generate", "--example", "--offline"]
    commands = {
        "llava-rad generate --example": [*command, *(["--model", options.model] if options.model else [])],
        "imports": [sys.executable, "-c", "import torch, transformers"],
    }
    report.table("cold_start", {"least s": ".2f", "s": ".2f", "x time": ""}, "import torch, transformers")
    starts = {name: partial(subprocess.run, line, check=True, capture_output=True) for name, line in commands.items()}
    report.race(starts, rounds, "imports")
    disable_progress_bar()
    settings = Decoding(max_new_tokens=150)
    engine = Engine.from_pretrained(options.model, device="cpu", dtype="float32")
    images = crops_of_the_example(engine.recipe, count)
    calls = {f"ours, batch {size}": ours(engine, settings, images, size) for size in BATCHES}
    calls |= {f"transformers, batch {size}": peer(options.model, settings, images, size) for size in BATCHES}
    tokens = list(race(report, "throughput", calls, rounds, "transformers, batch 1").values())
    report.close()
    return int(tokens.count(tokens[0]) < len(tokens))


if __name__ == "__main__":
    sys.exit(main())
