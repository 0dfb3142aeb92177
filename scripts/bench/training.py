"""Time a training step of the report generator against a plain HF Trainer, after a check that both compute the same.

    python -m scripts.bench.training [--case fp32 bf16-checkpointing] [--device cuda] [--format json]

Ours is ``llava_rad.training.run.run`` itself; the peer is ``LlavaForConditionalGeneration`` with the same weights in
``transformers.Trainer``, frozen vision tower, SDPA. A step is everything from fetching the samples to logging: the
frozen encoder, the language model's forward and backward pass, clipping at 1.0, AdamW. ViT-S/14 at 518 px (1369 image
tokens), a Llama of 8 layers and width 512 with 32,000 tokens, reports of about 100 tokens; tokens/s counts all tokens
of a sample, image tokens too.

Activation checkpointing is put on the decoder blocks on both sides. The case ``fp32-checkpointing-by-trainer`` shows
the effect of the Trainer's own switch on the peer: gradients flow through the frozen vision tower, too.

First both run the same three steps in float32: losses and gradient norms must agree, else the script exits 1. Then two
processes take turns, and CPU seconds are compared, with the kernel's part of them. Memory is the peak resident set.

``--device cuda`` times our side alone at Vicuna-7B's and RAD-DINO's sizes with random weights: adapters, and full
fine-tuning with DeepSpeed's offload, at micro-batches of 1, 2, 4 ... until memory is out. It gives tokens/s, peak
memory, and the share of the card's bfloat16 rate: of the model's FLOPs, and of those with activations recomputed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scripts.bench import steps
from scripts.bench.harness import Report
from scripts.bench.worker import Order

PACKAGE = "scripts.bench.training"
CHECKED_STEPS = 3
LARGEST_BATCH = 64


@dataclass(frozen=True)
class Case(steps.Case):
    """Sizes and settings of a timed step.

    Attributes:
        checkpointing: of activations, in the decoder blocks.
        everywhere: the peer uses the Trainer's own switch for it.
    """

    batch: int = 2
    steps: int = 8
    warmup: int = 1
    checkpointing: bool = False
    everywhere: bool = False
    encoder_width: int = 384
    encoder_layers: int = 12
    encoder_heads: int = 6
    image_size: int = 518
    width: int = 512
    layers: int = 8
    heads: int = 8
    inner: int = 1376
    vocabulary: int = 32000
    lora: bool = False
    deepspeed: str = "none"

    @property
    def rounds(self) -> int:
        """Number of steps, warm-up included."""
        return self.warmup + self.steps

    def checked(self) -> Case:
        """The case in which results are compared: float32, all of whose steps count."""
        case = replace(self, name="check", precision="fp32", checkpointing=False)
        return replace(case, batch=2, warmup=0, steps=CHECKED_STEPS)

    def tiny(self) -> Case:
        """The same at toy sizes, which takes a second."""
        toy: dict[str, Any] = {"encoder_width": 32, "encoder_layers": 2, "encoder_heads": 2, "image_size": 56}
        toy |= {"width": 64, "layers": 2, "heads": 2, "inner": 96, "vocabulary": 600, "steps": 2, "warmup": 1}
        return replace(self, **toy)


_LARGE = Case("", "bf16", LARGEST_BATCH, 6, 1, True, False, 768, 12, 12, 518, 4096, 32, 32, 11008)
_SMALL = [
    Case(f"{precision}{end}", precision, checkpointing=bool(end))
    for precision in ("fp32", "bf16")
    for end in ("", "-checkpointing")
]
CASES = {
    "cpu": [*_SMALL, Case("fp32-checkpointing-by-trainer", "fp32", checkpointing=True, everywhere=True)],
    "cuda": [
        replace(_LARGE, name="7b-lora", lora=True),
        *(replace(_LARGE, name=f"7b-{one}", deepspeed=one) for one in ("zero2-offload", "zero3-offload")),
    ],
}


def answers(case: Case, order: Order) -> dict[str, dict[str, float]]:
    """Losses and gradient norms of both sides at every step."""
    found: dict[str, dict[str, float]] = {"ours": {}, "peer": {}}
    with steps.starter(PACKAGE, case, order, {}) as start:
        for name, numbers in found.items():
            with start(name) as worker:
                for step in range(1, case.steps + 1):
                    logged = worker.ask("step")
                    numbers |= {f"{kind}, step {step}": logged[kind] for kind in ("loss", "grad_norm")}
    return found


def run(report: Report, case: Case, order: Order) -> int:
    """Time both sides in turns, or on a GPU ours alone at growing micro-batches; returns the largest one that fits."""
    batch, largest = (1, 0) if order["device"] == "cuda" else (case.batch, 0)
    names, clock = (["ours"], "wall_s") if order["device"] == "cuda" else (["ours", "peer"], "cpu_s")
    with steps.starter(PACKAGE, case, order, {}) as start:
        while batch <= case.batch and steps.compare(
            report, start, replace(case, batch=batch), names, clock, "tokens_per_sample"
        ):
            largest, batch = batch, 2 * batch
    return largest


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = steps.options(__doc__, [case.name for cases in CASES.values() for case in cases])
    made.add_argument("--batch", type=int, help="samples of a step; on a GPU the largest that is tried")
    return made.parse_args(argv)


def chosen(options: argparse.Namespace) -> list[Case]:
    """The cases that the command line asks for."""
    cases = [case for case in CASES[options.device] if options.case is None or case.name in options.case]
    cases = [case.tiny() for case in cases] if options.quick else cases
    changes = {key: value for key in ("batch", "steps", "warmup") if (value := getattr(options, key)) is not None}
    return [replace(case, **changes) for case in cases]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison and the times; exit code 1 where results differ, 2 without a case."""
    options = arguments(argv)
    cases, report, same = chosen(options), Report(options), True
    if not cases:
        print("no such case on this device", file=sys.stderr)
        return 2
    order: Order = {"device": options.device, "threads": 4 if options.device == "cuda" else 1}
    if options.device == "cpu":
        small = cases[0].checked()
        same = steps.check(report, f"float32, {small.batch} samples a step", answers(small, order))
    for case in cases if same else []:
        report.say(f"largest micro-batch: {run(report, case, order)}")
    report.close()
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
