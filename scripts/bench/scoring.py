"""Time how fast the reports of a test set are written: the fast protocol, the paper's, and transformers.

    python -m scripts.bench.scoring [--model DIR-OR-HUB-ID] [--rounds N] [--json FILE]
    python -m scripts.bench.scoring --device cuda --seven-b

The first: prepared images in memory, protocols of ``llava_rad.benchmark.writing``, plain ``generate`` of
transformers at the same types and batch sizes, in turns; reports/s, ratios with 95 % bootstrap intervals over rounds,
of wall seconds and of CPU seconds, which other work disturbs less, and the number of reports that are identical to the
paper protocol's. Exits 1 where ours and transformers' differ in float32 or the fast protocol does not repeat itself.

The second: a language model of Vicuna-7B's shape, see ``scripts.bench.scoring_decode``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from scripts.bench.generate import Write, crops_of_the_example, ours, peer, race
from scripts.bench.harness import Report, parser


def sides(source: str | None, count: int) -> dict[str, Write]:
    """Calls that write the token ids of the same images: both protocols, and transformers' counterpart of each."""
    from llava_rad.benchmark.writing import PROTOCOLS
    from llava_rad.generation.engine import Engine

    found: dict[str, Write] = {}
    images = None
    for name, protocol in PROTOCOLS.items():
        engine = Engine.from_pretrained(source, device="cpu", dtype=protocol.dtype)
        images = images or crops_of_the_example(engine.recipe, count)
        size, settings = protocol.batch_size, protocol.settings
        found[name] = ours(engine, settings, images, size)
        found[f"transformers, {protocol.dtype}, batch {size}"] = peer(source, settings, images, size, protocol.dtype)
    return found


def compare(report: Report, options: argparse.Namespace) -> bool:
    """Time all sides in turns; true if float32 tokens are transformers' and the fast protocol repeats itself."""
    import torch

    from llava_rad.benchmark.writing import FAST, PAPER, exact

    count, rounds = (2, 1) if options.quick else (options.images, options.rounds)
    with exact() as precision:
        calls = sides(options.model, count)
        rows = race(report, "sides", calls, rounds, PAPER.name)
        repeated = calls[FAST.name]() == rows[FAST.name]
    report.data |= {"precision": dict(precision), "fast_repeats_itself": repeated, "threads": torch.get_num_threads()}
    report.say(f"\nthe fast protocol gives the same tokens when it is run again: {repeated}")
    return repeated and rows[f"transformers, {PAPER.dtype}, batch {PAPER.batch_size}"] == rows[PAPER.name]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; exit code 1 where float32 tokens differ from transformers' or the fast protocol's change."""
    made = parser(__doc__, rounds=7, quick="2 images and one round; with --seven-b, toy sizes")
    made.add_argument("--model", default=None, help="checkpoint; default: the embedded one")
    made.add_argument("--images", type=int, default=64)
    made.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of --seven-b")
    made.add_argument("--batches", type=lambda text: tuple(map(int, text.split(","))), help="of --seven-b, besides 1")
    made.add_argument("--seven-b", action="store_true", help="time a language model of Vicuna-7B's shape")
    options = made.parse_args(argv)
    from transformers.utils.logging import disable_progress_bar

    from encoder.runs.distributed import keep_freed_memory
    from scripts.bench import scoring_decode

    disable_progress_bar()
    keep_freed_memory()
    report, same = Report(options), True
    if options.seven_b:
        scoring_decode.run(report, options.device, tiny=options.quick, rounds=options.rounds, batches=options.batches)
    else:
        same = compare(report, options)
    report.close()
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
