"""Reports per second against transformers on the same parts, and the cold start of the command line.

    python -m scripts.bench.generate [--model DIR-OR-HUB-ID] [--json FILE]

The peer is the plain way: ``Dinov2Model``, the projector, ``LlamaForCausalLM.generate``, image after image. It is also
timed over the same batches. Runs alternate, both give the same tokens in float32 or the script says so and exits 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.preprocessing import Recipe
    from llava_rad.generation.engine import Engine
    from llava_rad.generation.options import Decoding

BATCHES = (1, 4, 16)
IMAGES = 16


Run = Callable[[list[Any]], list[list[int]]]


def images_for(engine: Engine, count: int = IMAGES) -> list[npt.NDArray[np.uint8]]:
    """Different crops of the real radiograph RG1, prepared by the model's recipe."""
    return crops_of_the_example(engine.recipe, count)


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
    def run(images: list[npt.NDArray[np.uint8]]) -> list[list[int]]:
        embeds, mask = model.embed(recipe.normalise(np.stack(images)), [chunks] * len(images))
        rows: list[list[int]] = model.language_model.generate(
            inputs_embeds=embeds, attention_mask=mask, max_new_tokens=settings.max_new_tokens, do_sample=False
        ).tolist()
        return [row[: row.index(ids.eos)] if ids.eos in row else row for row in rows]

    return run


def throughput(source: str | None, repeats: int, max_new_tokens: int) -> dict[str, Any]:
    """Seconds per report of ours and of the peer at each batch size; minimum and median over ``repeats``."""
    import torch

    from llava_rad.generation.decoding import generate
    from llava_rad.generation.engine import Engine
    from llava_rad.generation.options import Decoding

    settings = Decoding(max_new_tokens=max_new_tokens)
    engine = Engine.from_pretrained(source, device="cpu", dtype="float32")
    images, plain = images_for(engine), peer(source, settings)

    def batched(run: Run, batch: int) -> list[list[int]]:
        return [row for at in range(0, IMAGES, batch) for row in run(images[at : at + batch])]

    def ours(part: list[npt.NDArray[np.uint8]]) -> list[list[int]]:
        return [list(draft.ids) for draft in generate(engine, part, settings)]

    runs: dict[str, tuple[Run, int]] = {f"ours, batch {batch}": (ours, batch) for batch in BATCHES}
    runs |= {f"transformers, batch {batch}": (plain, batch) for batch in BATCHES}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    tokens: dict[str, list[list[int]]] = {}
    for repeat in range(repeats + 1):
        for name, (run, batch) in runs.items():
            start = time.perf_counter()
            tokens[name] = batched(run, batch)
            if repeat:  # the first round warms up
                seconds[name].append((time.perf_counter() - start) / IMAGES)
    reference = tokens["transformers, batch 1"]
    loop = statistics.median(seconds["transformers, batch 1"])
    return {
        "model": engine.model_id,
        "threads": torch.get_num_threads(),
        "mean_tokens": statistics.mean(len(row) for row in reference),
        "different_reports": len({tuple(row) for row in reference}),
        "rows": [
            {
                "name": name,
                "seconds_min": min(times),
                "seconds_median": statistics.median(times),
                "reports_per_second": 1 / statistics.median(times),
                "times_the_loop": loop / statistics.median(times),
                "identical_reports": sum(a == b for a, b in zip(tokens[name], reference, strict=True)),
            }
            for name, times in seconds.items()
        ],
    }


def cold_start(repeats: int, model: str | None) -> dict[str, Any]:
    """Wall seconds of the command in a fresh process against those of ``import torch, transformers``."""
    command = [sys.executable, "-c", "from llava_rad.cli import main; main()", "generate", "--example", "--offline"]
    commands = {
        "llava-rad generate --example": [*command, *(["--model", model] if model else [])],
        "import torch, transformers": [sys.executable, "-c", "import torch, transformers"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for repeat in range(repeats + 1):
        for name, argv in commands.items():
            start = time.perf_counter()
            subprocess.run(argv, check=True, capture_output=True)
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    ours, imports = (statistics.median(times) for times in seconds.values())
    return {name: {"min": min(t), "median": statistics.median(t)} for name, t in seconds.items()} | {
        "ratio_of_medians": ours / imports,
        "ratio_of_minima": min(seconds["llava-rad generate --example"]) / min(seconds["import torch, transformers"]),
    }


def main() -> int:
    """Print both tables; exit 1 where tokens differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="checkpoint; default: the embedded one")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-new-tokens", type=int, default=150)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()

    from transformers.utils.logging import disable_progress_bar

    start = cold_start(arguments.repeats, arguments.model)
    disable_progress_bar()
    result = throughput(arguments.model, arguments.repeats, arguments.max_new_tokens)
    print(f"{platform.processor() or platform.machine()}, {result['threads']} threads, model {result['model']!r}")
    print(
        f"{IMAGES} images, {result['different_reports']} different reports, {result['mean_tokens']:.1f} tokens each\n"
    )
    print(f"{'':24} {'s/report min':>13} {'median':>8} {'reports/s':>10} {'x plain loop':>13} {'identical':>10}")
    for row in result["rows"]:
        print(
            f"{row['name']:24} {row['seconds_min']:13.3f} {row['seconds_median']:8.3f} "
            f"{row['reports_per_second']:10.2f} "
            f"{row['times_the_loop']:13.2f} {row['identical_reports']:>7}/{IMAGES}"
        )
    print("\ncold start, seconds (minimum, median)")
    for name in ("llava-rad generate --example", "import torch, transformers"):
        print(f"{name:32} {start[name]['min']:6.2f} {start[name]['median']:6.2f}")
    print(f"{'ratio':32} {start['ratio_of_minima']:6.2f} {start['ratio_of_medians']:6.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"throughput": result, "cold_start": start}, indent=2) + "\n")
    return 0 if all(row["identical_reports"] == IMAGES for row in result["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
