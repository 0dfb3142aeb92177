"""One training step of the report generator against a plain HF Trainer: tokens/s, memory, and that both are the same.

    python -m scripts.bench.training [--case fp32 bf16-checkpointing] [--device cuda] [--format json]

Ours is ``llava_rad.training.run.run`` itself; the peer is ``LlavaForConditionalGeneration`` with the same weights in
``transformers.Trainer``, frozen vision tower, SDPA. A step is everything from fetching the samples to logging: the
frozen encoder, the language model's forward and backward pass, clipping at 1.0, AdamW. ViT-S/14 at 518 px (1369 image
tokens), a Llama of 8 layers and width 512 with 32,000 tokens, reports of about 100 tokens; tokens/s counts all tokens
of a sample, image tokens too.

Activation checkpointing is put on the decoder blocks on both sides. The case ``fp32-checkpointing-by-trainer`` is what
the Trainer's own switch does to the peer: it also makes gradients flow through the frozen vision tower.

First both run the same three steps in float32: losses and gradient norms must agree, else the script exits 1. Then two
processes take turns, the first one changing every round, and CPU seconds are compared: medians, ratio, and its 95 %
bootstrap interval over rounds; what the kernel took of them is shown too. Memory is the peak resident set.

``--device cuda`` times our side alone at Vicuna-7B's and RAD-DINO's sizes with random weights: adapters, and full
fine-tuning with DeepSpeed's offload, at micro-batches of 1, 2, 4 ... until memory is out. It gives tokens/s, peak
memory, and the share of the card's bfloat16 rate: of the model's FLOPs, and of those with what is computed twice.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from scripts.bench.pretraining import PEAK_TERA_FLOPS, differences, ratio, time_steps
from scripts.bench.worker import ROOT, Worker

TOLERANCE = 1e-4
"""Largest relative difference of losses and gradient norms."""

CHECKED_STEPS = 3
LARGEST_BATCH = 64


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        checkpointing: of activations, in the decoder blocks.
        everywhere: the peer is told so by the Trainer's own switch.
        batch: samples of a step.
    """

    name: str
    precision: str
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
    batch: int = 2
    lora: bool = False
    deepspeed: str = "none"
    steps: int = 8
    warmup: int = 1

    @property
    def rounds(self) -> int:
        """Steps that are run."""
        return self.warmup + self.steps

    def checked(self) -> Case:
        """The case in which results are compared: float32, all of whose steps count."""
        return replace(
            self, name="check", precision="fp32", checkpointing=False, batch=2, warmup=0, steps=CHECKED_STEPS
        )

    def tiny(self) -> Case:
        """The same in a second, for tests."""
        toy: dict[str, Any] = {"encoder_width": 32, "encoder_layers": 2, "encoder_heads": 2, "image_size": 56}
        toy |= {"width": 64, "layers": 2, "heads": 2, "inner": 96, "vocabulary": 600, "steps": 2, "warmup": 1}
        return replace(self, **toy)


_LARGE = Case("", "bf16", True, False, 768, 12, 12, 518, 4096, 32, 32, 11008, batch=LARGEST_BATCH, steps=6)
CASES = {
    "cpu": [
        *(Case(f"{one}{end}", one, bool(end)) for one in ("fp32", "bf16") for end in ("", "-checkpointing")),
        Case("fp32-checkpointing-by-trainer", "fp32", True, everywhere=True),
    ],
    "cuda": [
        replace(_LARGE, name="7b-lora", lora=True),
        replace(_LARGE, name="7b-zero2-offload", deepspeed="zero2-offload"),
        replace(_LARGE, name="7b-zero3-offload", deepspeed="zero3-offload"),
    ],
}


def starter(case: Case, device: str, threads: int, folder: str) -> Callable[..., Worker]:
    """Prepare weights and samples, and give what starts a worker (``name``, and another case of the same sizes).

    This process never imports torch: a child's peak memory is never less than its parent's was.
    """

    def order(changed: Case) -> str:
        return json.dumps({"case": asdict(changed), "device": device, "folder": folder})

    def start(name: str, changed: Case = case) -> Worker:
        return Worker(sys.executable, f"scripts.bench.training_{name}", [order(changed)], threads)

    command = [sys.executable, "-m", "scripts.bench.training_ours", order(case), "prepare"]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return start


def compare(case: Case, threads: int) -> dict[str, Any]:
    """Losses and gradient norms of both at every step, and their relative differences."""
    small = case.checked()
    answers: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        start = starter(small, "cpu", threads, folder)
        workers = {name: stack.enter_context(start(name)) for name in ("ours", "peer")}
        for name, worker in workers.items():
            answers[name] = {}
            for step in range(1, small.steps + 1):
                logged = worker.ask("step")
                answers[name] |= {f"{what}, step {step}": logged[what] for what in ("loss", "grad_norm")}
    return {"case": asdict(small), **answers, "differences": differences(answers["ours"], answers["peer"])}


def wrong(check: dict[str, Any]) -> bool:
    """Whether results differ, or are not numbers."""
    return not all(value <= TOLERANCE for value in check["differences"].values())


def run(case: Case, threads: int) -> dict[str, Any]:
    """Time and memory of both sides in turns."""
    names = ["ours", "peer"]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        start = starter(case, "cpu", threads, folder)
        workers = {name: stack.enter_context(start(name)) for name in names}
        result: dict[str, Any] = {"case": asdict(case)}
        result |= {f"about_{name}": worker.ask("about") for name, worker in workers.items()}
        times = time_steps(workers, cast(Any, case))
        memory = {name: worker.ask("memory") for name, worker in workers.items()}
    tokens = case.batch * result["about_ours"]["tokens_per_sample"]
    cpu = {name: [step["cpu_s"] for step in times[name]] for name in names}
    for name in names:
        seconds = statistics.median(cpu[name])
        result[name] = {
            "seconds": seconds,
            "wall_s": statistics.median(step["wall_s"] for step in times[name]),
            "kernel_s": statistics.median(step["kernel_s"] for step in times[name]),
            "tokens_per_s": tokens / seconds,
            "peak_bytes": memory[name]["peak"],
            "base_bytes": memory[name]["base"],
            "steps": cpu[name],
        }
    result["tokens_per_s"] = asdict(ratio(cpu["peer"], cpu["ours"]))
    ours, peers = ([step["cpu_s"] - step["kernel_s"] for step in times[name]] for name in names)
    result["tokens_per_s_without_kernel"] = asdict(ratio(peers, ours))
    result["memory"] = memory["ours"]["peak"] / memory["peer"]["peak"]
    own = {name: one["peak"] - one["base"] for name, one in memory.items()}
    result["memory_without_libraries"] = own["ours"] / max(own["peer"], 1)  # toy sizes may add nothing to it
    return result


def run_cuda(case: Case, peak: float | None) -> dict[str, Any]:
    """Our side alone, at growing micro-batches until memory is out."""
    result: dict[str, Any] = {"case": asdict(case), "batches": {}, "largest_batch": 0}
    with tempfile.TemporaryDirectory() as folder:
        start = starter(case, "cuda", 4, folder)
        batch = 1
        while batch <= case.batch:
            changed = replace(case, batch=batch)
            with start("ours", changed) as worker:
                about = worker.ask("about")
                steps = time_steps({"ours": worker}, cast(Any, changed))["ours"]
                if not steps:
                    break
                memory = worker.ask("memory")
            seconds = statistics.median(step["wall_s"] for step in steps)
            peak = peak or next((rate for name, rate in PEAK_TERA_FLOPS.items() if name in about["device"]), None)
            found = {
                "seconds": seconds,
                "tokens_per_s": batch * about["tokens_per_sample"] / seconds,
                "peak_bytes": memory["peak"],
            }
            if peak:
                rates = {kind: batch * flops / seconds for kind, flops in about["tera_flops"].items()}
                found |= {f"share_of_peak_{kind}": rate / peak for kind, rate in rates.items()}
            result |= {"about_ours": about, "peak_tflops": peak, "largest_batch": batch}
            result["batches"][str(batch)] = found
            batch *= 2
    return result


def show_check(check: dict[str, Any]) -> None:
    """Print the comparison of results."""
    print(f"same result? float32, {check['case']['batch']} samples a step")
    print(f"  {'':18} {'ours':>12} {'peer':>12} {'difference':>11}")
    for name, difference in check["differences"].items():
        text = f"  {name:18} {check['ours'][name]:12.6f} {check['peer'][name]:12.6f} {difference:11.1e}"
        print(text if difference <= TOLERANCE else f"{text}  <- differs")
    print()


def show(result: dict[str, Any]) -> None:
    """Print one case."""
    case = Case(**result["case"])
    if "batches" in result:
        print(f"{case.name}: largest micro-batch {result['largest_batch']}")
        for batch, row in result["batches"].items():
            text = f"  {batch:>3} samples: {row['seconds']:.3f} s a step, {row['tokens_per_s']:.0f} tokens/s"
            text += f", peak {row['peak_bytes'] / 1e9:.1f} GB"
            if "share_of_peak_run" in row:
                text += f", {row['share_of_peak_model']:.1%} of the card's rate ({row['share_of_peak_run']:.1%} run)"
            print(text)
        return
    tokens = result["about_ours"]["tokens_per_sample"]
    print(f"{case.name}: {case.batch} samples of {tokens:.0f} tokens, activation checkpointing {case.checkpointing}")
    for name in ("ours", "peer"):
        row = result[name]
        low, _, high = statistics.quantiles(row["steps"], n=4)
        text = f"  {result[f'about_{name}']['name']:24} {row['seconds']:8.3f} CPU s a step"
        text += f" (quartiles {low:.3f}-{high:.3f}, kernel {row['kernel_s']:.2f}),"
        text += f" {row['tokens_per_s']:7.1f} tokens/CPU s, peak {row['peak_bytes'] / 1e6:6.0f} MB"
        print(f"{text} (libraries {row['base_bytes'] / 1e6:.0f})")
    found = result["tokens_per_s"]
    text = f"  {'ours / peer':24} tokens/s {found['value']:.3f} (95 %: {found['low']:.3f}-{found['high']:.3f}; without"
    text += f" kernel {result['tokens_per_s_without_kernel']['value']:.3f}), memory {result['memory']:.3f}"
    print(f"{text} (without libraries {result['memory_without_libraries']:.3f})\n")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for cases in CASES.values() for case in cases]
    parser.add_argument("--case", nargs="+", choices=names, help="default: all of the device")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="only the cases in this precision")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, help="samples of a step; on a GPU the largest that is tried")
    parser.add_argument("--steps", type=int, help="timed steps; default 8, on a GPU 6")
    parser.add_argument("--warmup", type=int, help="steps before them; default 1")
    parser.add_argument("--threads", type=int, default=1, help="of each process on a CPU")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see whether it works")
    parser.add_argument("--no-check", action="store_true", help="do not compare results first")
    parser.add_argument("--peak-tflops", type=float, help="of the card, bfloat16; default: from a table of cards")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser.parse_args(argv)


def chosen(options: argparse.Namespace) -> list[Case]:
    """The cases that the command line asks for."""
    cases = [case for case in CASES[options.device] if options.case is None or case.name in options.case]
    cases = [case for case in cases if options.precision in (None, case.precision)]
    cases = [case.tiny() for case in cases] if options.tiny else cases
    changes = {key: value for key in ("batch", "steps", "warmup") if (value := getattr(options, key)) is not None}
    return [replace(case, **changes) for case in cases]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison and the times; 1 where results differ."""
    options = arguments(argv)
    cases, text = chosen(options), options.format == "text"
    if not cases:
        print("no such case on this device", file=sys.stderr)
        return 2
    report: dict[str, Any] = {"device": options.device, "threads": options.threads, "check": None, "cases": []}
    failed = False
    if options.device == "cpu" and not options.no_check:
        report["check"] = compare(cases[0], options.threads)
        failed = wrong(report["check"])
        if text:
            show_check(report["check"])
    for case in [] if failed else cases:
        cuda = options.device == "cuda"
        report["cases"].append(run_cuda(case, options.peak_tflops) if cuda else run(case, options.threads))
        if text:
            show(report["cases"][-1])
            sys.stdout.flush()
    if not text:
        print(json.dumps(report, indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
