"""Time how fast the reports of a test set are written: the fast protocol, the paper's, and transformers.

    python -m scripts.bench.scoring [--model DIR-OR-HUB-ID] [--rounds N] [--json FILE]
    python -m scripts.bench.scoring --device cuda --seven-b

The first: prepared images in memory, protocols of ``llava_rad.benchmark.writing``, plain ``generate`` of
transformers at the same types and batch sizes, in turns; reports/s, ratios with 95 % bootstrap intervals over rounds,
and the number of reports that differ from the paper protocol's. Exits 1 where ours and transformers' differ in float32
or the fast protocol does not repeat itself.

The second: a language model of Vicuna-7B's shape, see ``scripts.bench.scoring_decode``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence

from scripts.bench.generate import Rows, crops_of_the_example, in_batches, ours, peer
from scripts.bench.harness import Report, equal_rows, median, parser, ratio, seconds, time_calls


def sides(source: str | None, count: int) -> dict[str, Callable[[], Rows]]:
    """Calls that write the token ids of the same images: both protocols, and transformers' counterpart of each."""
    from llava_rad.benchmark.writing import PROTOCOLS
    from llava_rad.generation.engine import Engine

    found: dict[str, Callable[[], Rows]] = {}
    images = None
    for name, protocol in PROTOCOLS.items():
        engine = Engine.from_pretrained(source, device="cpu", dtype=protocol.dtype)
        images = images or crops_of_the_example(engine.recipe, count)
        size, plain = protocol.batch_size, peer(source, protocol.settings, protocol.dtype)
        found[name] = in_batches(ours(engine, protocol.settings), images, size)
        found[f"transformers, {protocol.dtype}, batch {size}"] = in_batches(plain, images, size)
    return found


def compare(report: Report, options: argparse.Namespace) -> bool:
    """Time all sides in turns; ratios are of wall seconds, and of CPU seconds, which other work disturbs less."""
    import torch

    from llava_rad.benchmark.writing import FAST, PAPER, exact

    count, rounds = (2, 1) if options.quick else (options.images, options.rounds)
    with exact() as precision:
        calls = sides(options.model, count)
        rows = {name: call() for name, call in calls.items()}  # also warms up
        repeated = calls[FAST.name]() == rows[FAST.name]
        times = time_calls(calls, rounds, warmup=0)
    paper = rows[PAPER.name]
    report.data |= {"precision": dict(precision), "fast_repeats_itself": repeated, "threads": torch.get_num_threads()}
    lengths = statistics.mean(map(len, paper))
    report.say(f"\n{count} images, {len(set(map(tuple, paper)))} different reports, {lengths:.1f} tokens each")
    columns = {"reports/s": ".1f", "x paper": "", "CPU s x paper": "", "not as paper": "d"}
    report.table("sides", columns, f"{torch.get_num_threads()} threads")
    for name, costs in times.items():
        speeds = {
            head: ratio(seconds(times[PAPER.name], clock), seconds(costs, clock))
            for head, clock in (("x paper", "wall_s"), ("CPU s x paper", "cpu_s"))
        }
        row = {"reports/s": count / median(costs), "rounds": costs, "cpu_s_per_report": median(costs, "cpu_s") / count}
        report.row(name, row | speeds | {"not as paper": count - equal_rows(rows[name], paper)})
    report.say(f"\nthe fast protocol gives the same tokens when it is run again: {repeated}")
    return repeated and rows[f"transformers, {PAPER.dtype}, batch {PAPER.batch_size}"] == paper


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; exit code 1 where float32 tokens differ from transformers' or the fast protocol's change."""
    made = parser(__doc__, rounds=7, quick="2 images and one round; with --seven-b, toy sizes")
    made.add_argument("--model", default=None, help="checkpoint; default: the embedded one")
    made.add_argument("--images", type=int, default=64)
    made.add_argument("--threads", type=int, default=None, help="of torch; one where other work runs at the same time")
    made.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of --seven-b")
    made.add_argument("--batches", type=lambda text: tuple(map(int, text.split(","))), help="of --seven-b, besides 1")
    made.add_argument("--seven-b", action="store_true", help="time a language model of Vicuna-7B's shape")
    options = made.parse_args(argv)
    import torch
    from transformers.utils.logging import disable_progress_bar

    from encoder.runs.distributed import keep_freed_memory

    disable_progress_bar()
    keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    report, same = Report(options), True
    if options.seven_b:
        from scripts.bench import scoring_decode

        scoring_decode.run(report, options.device, tiny=options.quick, rounds=options.rounds, batches=options.batches)
    else:
        same = compare(report, options)
    report.close()
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
