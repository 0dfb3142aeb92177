"""How fast are the reports of a test set written? The fast protocol against the paper's, and transformers beside both.

    python -m scripts.bench.scoring [--model DIR-OR-HUB-ID] [--rounds N] [--json FILE]
    python -m scripts.bench.scoring --device cuda --seven-b

The first: prepared images in memory, protocols of ``llava_rad.benchmark.protocols``, plain ``generate`` of
transformers at the
same types and batch sizes, in turns; reports/s, ratios with 95 % bootstrap intervals over rounds, and how many reports
of the fast protocol are not the paper protocol's. Exits 1 where ours and transformers' differ in float32.

The second: a language model of Vicuna-7B's shape, see ``scripts.bench.scoring_decode``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.bench.pretraining import ratio
from scripts.bench.worker import measured

IMAGES, ROUNDS = 64, 7

Rows = list[list[int]]


def sides(source: str | None, count: int) -> dict[str, Callable[[], Rows]]:
    """What writes the token ids of the same images: both protocols and transformers' counterpart of each."""
    from llava_rad.benchmark.protocols import PROTOCOLS, Protocol
    from llava_rad.generation.decoding import generate
    from llava_rad.generation.engine import Engine
    from scripts.bench.generate import Run, images_for, peer

    found: dict[str, Callable[[], Rows]] = {}
    images: list[Any] = []

    def over_batches(run: Run, size: int) -> Callable[[], Rows]:
        return lambda: [row for at in range(0, count, size) for row in run(images[at : at + size])]

    def ours(protocol: Protocol) -> Run:
        engine = Engine.from_pretrained(source, device="cpu", dtype=protocol.dtype)
        images[:] = images or images_for(engine, count)
        return lambda part: [list(draft.ids) for draft in generate(engine, part, protocol.settings)]

    for name, protocol in PROTOCOLS.items():
        found[name] = over_batches(ours(protocol), protocol.batch_size)
        plain = peer(source, protocol.settings, protocol.dtype)
        found[f"transformers, {protocol.dtype}, batch {protocol.batch_size}"] = over_batches(plain, protocol.batch_size)
    return found


def compare(source: str | None, count: int, rounds: int) -> dict[str, Any]:
    """Time all sides in turns; ratios are of wall seconds and of CPU seconds, which other work disturbs less."""
    import torch

    from llava_rad.benchmark.protocols import FAST, PAPER, exact

    with exact() as precision:
        runs = sides(source, count)
        rows = {name: run() for name, run in runs.items()}  # also warms up
        repeated = runs[FAST.name]() == rows[FAST.name]
        costs: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                costs[name].append(measured(run, "cpu"))
    paper, result = rows[PAPER.name], dict[str, Any]()
    for name, steps in costs.items():
        seconds = {kind: [step[kind] for step in steps] for kind in ("wall_s", "cpu_s")}
        result[name] = {
            "reports_per_second": count / statistics.median(seconds["wall_s"]),
            "cpu_seconds_per_report": statistics.median(seconds["cpu_s"]) / count,
            "paper_over_this": {
                kind: asdict(ratio([step[kind] for step in costs[PAPER.name]], own)) for kind, own in seconds.items()
            },
            "not_as_paper": sum(a != b for a, b in zip(rows[name], paper, strict=True)),
            "rounds": steps,
        }
    return {
        "model": source,
        "images": count,
        "different_reports": len({tuple(row) for row in paper}),
        "mean_tokens": statistics.mean(len(row) for row in paper),
        "threads": torch.get_num_threads(),
        "precision": dict(precision),
        "fast_repeats_itself": repeated,
        "sides": result,
    }


def show(result: dict[str, Any]) -> None:
    """Print the comparison."""
    print(
        f"{platform.processor() or platform.machine()}, {result['threads']} threads; {result['images']} images, "
        f"{result['different_reports']} different reports, {result['mean_tokens']:.1f} tokens each\n"
    )
    print(f"{'':36} {'reports/s':>9} {'x paper (95 %)':>22} {'CPU s x paper (95 %)':>22} {'not as paper':>13}")
    for name, side in result["sides"].items():
        times = [
            f"{r['value']:.2f} ({r['low']:.2f} to {r['high']:.2f})"
            for r in (side["paper_over_this"][kind] for kind in ("wall_s", "cpu_s"))
        ]
        print(
            f"{name:36} {side['reports_per_second']:9.1f} {times[0]:>22} {times[1]:>22} "
            f"{side['not_as_paper']:>6}/{result['images']}"
        )
    print(f"\nthe fast protocol gives the same tokens when it is run again: {result['fast_repeats_itself']}")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="checkpoint; default: the embedded one")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=None, help="of torch; one where other work goes on beside this")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of --seven-b")
    parser.add_argument("--batches", type=lambda text: tuple(map(int, text.split(","))), help="of --seven-b, beside 1")
    parser.add_argument("--seven-b", action="store_true", help="time a language model of Vicuna-7B's shape")
    parser.add_argument("--tiny", action="store_true", help="with --seven-b: toy sizes, to see that it runs")
    parser.add_argument("--json", type=Path, default=None)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; exit 1 where float32 tokens differ from transformers' or the fast protocol's change."""
    options = arguments(argv)
    import torch
    from transformers.utils.logging import disable_progress_bar

    from encoder.runs.distributed import keep_freed_memory
    from llava_rad.benchmark.protocols import PAPER

    disable_progress_bar()
    keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.seven_b:
        from scripts.bench import scoring_decode

        result = scoring_decode.run(options.device, tiny=options.tiny, rounds=options.rounds, batches=options.batches)
        scoring_decode.show(result)
        wrong = False
    else:
        result = compare(options.model, options.images, options.rounds)
        show(result)
        plain = result["sides"][f"transformers, {PAPER.dtype}, batch {PAPER.batch_size}"]
        wrong = plain["not_as_paper"] > 0 or not result["fast_repeats_itself"]
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
