"""One pre-training step against lightly-train's DINOv2: time, memory, and that both compute the same.

    python -m scripts.bench.pretraining --peer-python PEER/bin/python [--case vits-bf16] [--device cuda] [--format json]

PEER is an environment of its own with ``lightly-train`` 0.18 and ``safetensors``; without it our half is timed alone.
A step is the teacher's forward pass, the student's, the losses, the backward pass, clipping at 3.0, AdamW and the
teacher's moving average. Both tools get the same crops, masks and weights, in memory; ViT with MLP and no registers, a
shared head, centring by moving average, drop path 0.3.

On a CPU two processes with one thread each take turns, the first one changing every round, and CPU seconds are
compared: medians, their ratio, and its 95 % bootstrap interval over rounds; memory is the peak resident set. What the
kernel took of the CPU seconds is shown too: it depends on how the C library hands out memory. On a GPU one process runs
after the other; wall seconds and the allocator's peak are compared, and the share of the card's peak FLOP/s is given.

First of all, at drop path 0 in float32, both must give the same losses and gradient norms, twice: with the centres at
zero and after they first moved; else the script exits 1. Three things are made alike for this. Position embeddings:
lightly-train adds 0.1 patches to the wanted size where it has to interpolate them, here it is told not to. KoLeo: it
logs the sum over both views unweighted, ours has the weight 0.1 in it. DINO: it logs pairs of global crops and pairs
with local ones separately, both divided by the number of all pairs. Pixels: ours are grey bytes, as in the cache, and
the peer gets the same values normalised, as float32 in three equal channels, as from its own loader.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from scripts.bench.worker import ROOT, Worker

TOLERANCE = 1e-4
"""Largest relative difference of losses and gradient norms."""

PEAK_TERA_FLOPS = {"H100 PCIe": 756, "H100": 989, "H200": 989, "A100": 312, "L40S": 362, "L4": 121, "RTX 4090": 165}
"""Dense bfloat16, from NVIDIA's data sheets; the first name that the card's name contains."""

CUDA_BATCHES = (8, 16, 32)


@dataclass(frozen=True)
class Case:
    """What is timed. Sizes in pixels; ``image_size`` is that of the position embeddings."""

    name: str
    peer_model: str
    width: int
    heads: int
    layers: int
    image_size: int
    global_size: int
    local_size: int
    local_crops: int
    batch: int
    prototypes: int
    precision: str
    steps: int
    warmup: int
    drop_path: float = 0.3
    head_hidden: int = 2048
    bottleneck: int = 256
    teacher_temperature: float = 0.04

    def checked(self) -> Case:
        """The case in which losses are compared: float32, no dropped paths, crops of at most 224 px, a small batch."""
        large, small = min(self.global_size, 224), min(self.local_size, 98)
        batch = min(self.batch, 8)
        return replace(self, drop_path=0.0, precision="fp32", batch=batch, global_size=large, local_size=small)


_VITS = Case("vits-fp32", "vits14-noreg-notpretrained", 384, 6, 12, 112, 112, 56, 4, 8, 4096, "fp32", 20, 4)
_VITB = Case("vitb-bf16", "vitb14-noreg-notpretrained", 768, 12, 12, 518, 518, 196, 8, 2, 65536, "bf16", 6, 1)
CASES = {case.name: case for case in (_VITS, replace(_VITS, name="vits-bf16", precision="bf16"), _VITB)}


@dataclass(frozen=True)
class Ratio:
    """Ours over the peer's: of the medians, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def ratio(ours: Sequence[float], peers: Sequence[float], samples: int = 2000) -> Ratio:
    """The ratio of two medians; rounds are drawn as pairs, since both ran in them side by side."""
    rng, rounds = random.Random(0), range(len(ours))
    drawn = []
    for _ in range(samples):
        chosen = rng.choices(rounds, k=len(rounds))
        drawn.append(statistics.median(ours[i] for i in chosen) / statistics.median(peers[i] for i in chosen))
    drawn.sort()
    value = statistics.median(ours) / statistics.median(peers)
    return Ratio(value, drawn[int(0.025 * samples)], drawn[int(0.975 * samples)])


def differences(ours: dict[str, float], peers: dict[str, float]) -> dict[str, float]:
    """Relative difference of each number."""
    return {name: abs(value - peers[name]) / abs(peers[name]) for name, value in ours.items()}


def time_steps(workers: dict[str, Worker], case: Case) -> dict[str, list[dict[str, float]]]:
    """Measured steps of each worker, in turns; a worker that runs out of memory has none."""
    times: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    going = list(workers)
    for turn in range(case.warmup + case.steps):
        for name in list(going):
            answer = workers[name].ask("step")
            if "error" in answer:
                times[name] = []
                going.remove(name)
            elif turn >= case.warmup:
                times[name].append(answer)
        going.reverse()
    return times


def run(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """All numbers of one case."""
    cuda = options.device == "cuda"
    clock = "wall_s" if cuda else "cpu_s"
    with tempfile.TemporaryDirectory() as folder:
        start = _starter(case, options, folder)
        result: dict[str, Any] = {"case": asdict(case), "clock": clock}
        times: dict[str, list[dict[str, float]]] = {}
        memory: dict[str, dict[str, int]] = {}
        for names in [[name] for name in _names(options)] if cuda else [_names(options)]:
            with ExitStack() as stack:
                workers = {name: stack.enter_context(start(name)) for name in names}
                result |= {f"about_{name}": worker.ask("about") for name, worker in workers.items()}
                times |= time_steps(workers, case)
                memory |= {name: worker.ask("memory") for name, worker in workers.items() if times[name]}
                if times.get("ours") and "ours" in workers:
                    splits = [workers["ours"].ask("split") for _ in range(min(3, case.steps))]
                    result["split_s"] = {part: statistics.median(one[part] for one in splits) for part in splits[0]}
    for name, steps in times.items():
        if not steps:
            result[name] = {"error": "out of memory"}
            continue
        seconds = statistics.median(step[clock] for step in steps)
        result[name] = {
            "seconds": seconds,
            "wall_s": statistics.median(step["wall_s"] for step in steps),
            "kernel_s": statistics.median(step["kernel_s"] for step in steps),
            "images_per_s": case.batch / seconds,
            "peak_bytes": memory[name]["peak"],
            "base_bytes": memory[name]["base"],
            "steps": [step[clock] for step in steps],
        }
    if all(times.get(name) for name in ("ours", "peer")):
        ours, peers = ([step[clock] for step in times[name]] for name in ("ours", "peer"))
        result["time"] = asdict(ratio(ours, peers))
        if not cuda:
            ours, peers = ([step["cpu_s"] - step["kernel_s"] for step in times[name]] for name in ("ours", "peer"))
            result["time_without_kernel"] = asdict(ratio(ours, peers))
        result["memory"] = memory["ours"]["peak"] / memory["peer"]["peak"]
        own = {name: one["peak"] - one["base"] for name, one in memory.items()}
        result["memory_without_libraries"] = own["ours"] / own["peer"]
    if cuda:
        _utilisation(result, options.peak_tflops)
    return result


def _names(options: argparse.Namespace) -> list[str]:
    return ["ours", "peer"] if options.peer_python else ["ours"]


def _starter(case: Case, options: argparse.Namespace, folder: str) -> Callable[[str], Worker]:
    """Prepare the inputs, and give what starts a worker.

    This process never imports torch: a child's peak memory is never less than its parent's was.
    """
    order = json.dumps(
        {"case": asdict(case), "folder": folder}
        | {key: getattr(options, key) for key in ("device", "threads", "compile")}
    )

    def start(name: str) -> Worker:
        python = sys.executable if name == "ours" else options.peer_python
        return Worker(python, f"scripts.bench.pretraining_{name}", [order], options.threads)

    subprocess.run([sys.executable, "-m", "scripts.bench.pretraining_ours", order, "prepare"], check=True, cwd=ROOT)
    return start


def _utilisation(result: dict[str, Any], peak: float | None) -> None:
    card = result["about_ours"]["device"]
    peak = peak or next((value for name, value in PEAK_TERA_FLOPS.items() if name in card), None)
    result["peak_tflops"] = peak
    for name in ("ours", "peer"):
        if peak and "seconds" in result.get(name, {}):
            flops = result["about_ours"]["tera_flops"]
            for key, value in flops.items():
                result[name][f"share_of_peak_{key}"] = result[name]["images_per_s"] * value / peak


def compare(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Losses and gradient norms of both, and their relative differences."""
    small = case.checked()
    with tempfile.TemporaryDirectory() as folder:
        start = _starter(small, options, folder)
        answers = {}
        for name in ("ours", "peer"):
            with start(name) as worker:
                answers[name] = worker.ask("check")
    return {"case": asdict(small), **answers, "differences": differences(answers["ours"], answers["peer"])}


def show_check(result: dict[str, Any]) -> None:
    """Print the comparison of results."""
    case = Case(**result["case"])
    print(
        f"same result? width {case.width}, {case.prototypes} prototypes, {case.batch} x (2 x {case.global_size}"
        f" + {case.local_crops} x {case.local_size}) px, float32, drop path 0"
    )
    print(f"  {'':24} {'ours':>12} {'peer':>12} {'difference':>11}")
    for name, difference in result["differences"].items():
        wrong = "" if difference <= TOLERANCE else "  <- differs"
        print(f"  {name:24} {result['ours'][name]:12.6f} {result['peer'][name]:12.6f} {difference:11.1e}{wrong}")
    print()


def show(result: dict[str, Any]) -> None:
    """Print one case."""
    case, what = Case(**result["case"]), "CPU s" if result["clock"] == "cpu_s" else "s"
    print(f"{case.name}: {case.batch} images x (2 x {case.global_size} + {case.local_crops} x {case.local_size}) px")
    for name in ("ours", "peer"):
        if (row := result.get(name)) is None:
            continue
        label = result[f"about_{name}"]["name"]
        if "error" in row:
            print(f"  {label:21} {row['error']}")
            continue
        low, _, high = statistics.quantiles(row["steps"], n=4) if len(row["steps"]) > 1 else row["steps"] * 3
        text = f"  {label:21} {row['seconds']:8.4f} {what} a step (quartiles {low:.4f}-{high:.4f}),"
        text += f" {row['images_per_s']:7.2f} images/{what}, peak {row['peak_bytes'] / 1e6:7.0f} MB"
        if result["clock"] == "cpu_s":
            text = text.replace("),", f", kernel {row['kernel_s']:.2f}),", 1)
        if row["base_bytes"]:
            text += f" (libraries {row['base_bytes'] / 1e6:.0f})"
        if "share_of_peak_all" in row:
            text += f", {row['share_of_peak_all']:.1%} of peak with all paths, {row['share_of_peak_run']:.1%} computed"
        print(text)
    if "time" in result:
        found = result["time"]
        text = f"  {'ours / peer':21} time {found['value']:.3f} (95 %: {found['low']:.3f}-{found['high']:.3f}"
        if "time_without_kernel" in result:
            text += f"; without kernel {result['time_without_kernel']['value']:.3f}"
        print(f"{text}), memory {result['memory']:.3f} (without libraries {result['memory_without_libraries']:.3f})")
    if "split_s" in result:
        total = sum(result["split_s"].values())
        parts = (f"{part} {seconds / total:.0%}" for part, seconds in result["split_s"].items())
        print(f"  our step: {', '.join(parts)}")
    print()


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter of the environment that has lightly-train")
    parser.add_argument("--case", nargs="+", choices=list(CASES), help="default: all; on a GPU vitb-bf16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", nargs="+", type=int, help=f"images; default on a GPU: {CUDA_BATCHES}")
    parser.add_argument("--steps", type=int, help="timed steps; default 20, for vitb-bf16 on a CPU 6")
    parser.add_argument("--warmup", type=int, help="steps before them; default 4, for vitb-bf16 on a CPU 1")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--compile", action="store_true", help="torch.compile our transformer blocks")
    parser.add_argument("--no-check", action="store_true", help="do not compare results first")
    parser.add_argument("--peak-tflops", type=float, help="of the card, bfloat16; default: from a table of cards")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser.parse_args(argv)


def chosen(options: argparse.Namespace) -> list[Case]:
    """The cases that the command line asks for."""
    cuda = options.device == "cuda"
    cases = [CASES[name] for name in options.case or (["vitb-bf16"] if cuda else CASES)]
    if cuda:
        cases = [replace(case, steps=20, warmup=5) for case in cases]
    changes = {key: value for key in ("steps", "warmup") if (value := getattr(options, key)) is not None}
    batches = options.batch or (CUDA_BATCHES if cuda else None)
    cases = [replace(case, **changes) for case in cases]
    return [replace(case, batch=batch) for case in cases for batch in batches] if batches else cases


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison and the times; 1 where results differ."""
    options = arguments(argv)
    text, cases = options.format == "text", chosen(options)
    report: dict[str, Any] = {"threads": options.threads, "compile": options.compile, "checks": [], "cases": []}
    if options.peer_python and not options.no_check:
        for small in dict.fromkeys(replace(case.checked(), name="check") for case in cases):
            report["checks"].append(compare(small, options))
            if text:
                show_check(report["checks"][-1])
    wrong = any(value > TOLERANCE for check in report["checks"] for value in check["differences"].values())
    if not wrong:
        for case in cases:
            report["cases"].append(run(case, options))
            if text:
                if case is cases[0]:
                    print(_heading(report["cases"][0], options))
                show(report["cases"][-1])
    if not text:
        print(json.dumps(report, indent=1))
    return int(wrong)


def _heading(result: dict[str, Any], options: argparse.Namespace) -> str:
    ours, peer = result["about_ours"], result.get("about_peer")
    words = f"{ours['device']}, {options.threads} thread(s), torch {ours['torch']}"
    if peer:
        words += f"; {peer['name']}, torch {peer['torch']}, xFormers {'in use' if peer['xformers'] else 'absent'}"
    return words + "\n"


if __name__ == "__main__":
    sys.exit(main())
