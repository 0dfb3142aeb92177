"""State the cost of the probes in the loop of pre-training: measured in runs, step by step, or estimated for a run.

    python -m scripts.bench.probe_cost RUN [RUN ...] [--directory DIR]
    python -m scripts.bench.probe_cost --config rad-dino --images 19237 --processes 16 --tflops 315

A run's ``metrics.jsonl`` has the seconds of every call and the images/s between them. Beside what was measured stands
what ``pretrain --validate`` estimates at the speed of the run's own steps, with fitting measured on this machine.
Relative paths in a run's configuration begin where the run was started: name that folder with ``--directory``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from encoder.errors import LlavaRadError
from encoder.pretraining.config import PretrainingConfig, load_config
from encoder.pretraining.data import probe_rows
from encoder.pretraining.probes import fitting_seconds
from encoder.pretraining.validation import ProbeCost, cost_of, probe_cost
from encoder.runs.folder import CONFIG
from encoder.runs.metrics_log import read_metrics


@dataclass(frozen=True)
class Call:
    """One call of the probes.

    Attributes:
        step: after which they ran.
        seconds: of the call.
        training: seconds of the steps since the call before.
    """

    step: int
    seconds: float
    training: float


def calls(lines: Sequence[dict[str, Any]], batch_size: int) -> list[Call]:
    """Return the calls that a metrics log has, with the time of the steps between them.

    Args:
        lines: of ``metrics.jsonl``.
        batch_size: images of a step.
    """
    found, training, last = [], 0.0, 0
    for line in lines:
        if line.get("images_per_s"):
            training += (line["step"] - last) * batch_size / line["images_per_s"]
            last = line["step"]
        if "probe_seconds" in line:
            found.append(Call(line["step"], line["probe_seconds"], training))
            training = 0.0
    return found


def show(config: PretrainingConfig, found: Sequence[Call]) -> dict[str, Any]:
    """Print the calls of a run, and their share at its interval and at the default one; returns the numbers."""
    print(f"{'step':>10}{'probes, s':>12}{'training, s':>14}{'share':>9}")
    for call in found:
        share = f"{call.seconds / call.training:.2%}" if call.training else ""
        print(f"{call.step:>10,}{call.seconds:>12.2f}{call.training:>14.1f}{share:>9}")
    steps = found[-1].step - found[0].step
    training, inside = sum(call.training for call in found), found[1:] or found
    mean = sum(call.seconds for call in inside) / len(inside)
    if not steps or not training:
        print(f"{mean:.2f} s a call; the run has no steps between two calls")
        return {"seconds": mean}
    step, own, usual = training / steps, config.probe.every, type(config.probe)().every
    print(
        f"{mean:.2f} s a call, {step:.3g} s a step: {mean / (own * step):.2%} of the training time every {own:,} "
        f"steps, {mean / (usual * step):.2%} every {usual:,} (the default)"
    )
    return {"seconds": mean, "seconds a step": step, "share at the default interval": mean / (usual * step)}


def estimate(config: PretrainingConfig, images: int, rate: float, fitting: float = 0.0) -> ProbeCost:
    """Estimate as ``pretrain --validate`` does, and print it.

    Args:
        config: the run.
        images: probed images.
        rate: TFLOP/s of all processes together.
        fitting: seconds of the linear probe; 0 leaves it out.
    """
    found = probe_cost(config, images, fitting, cost_of(config), rate)
    fitted = f"fitting {fitting:.2f}, measured here" if fitting else "without fitting"
    print(
        f"estimate: {found.seconds:.2f} s a call (encoding {found.encoding:.2f}; {fitted}), every "
        f"{config.probe.every:,} steps of {found.training / config.probe.every:.3g} s: "
        f"{found.share:.2%} of the training time"
    )
    return found


def measured(run: Path) -> dict[str, Any]:
    """Print the calls of a run with the estimate, and return the numbers.

    Args:
        run: folder of the run; relative paths in its configuration begin in the working directory.

    Raises:
        LlavaRadError: if the configuration, the log or the manifest cannot be read, or the log has no timed probes.
    """
    config = load_config(str(run / CONFIG))
    found = calls(read_metrics(run), config.optimization.batch_size)
    if not found:
        raise LlavaRadError("no probes in its metrics.jsonl, or of a version that did not time them")
    rows = probe_rows(config)
    print(run.name)
    numbers = show(config, found)
    if step := numbers.get("seconds a step"):
        labels, train = len({name for row in rows for name in row.labels}), [row.split for row in rows].count("train")
        rate = config.optimization.batch_size * cost_of(config).tera_flops_run / step
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        fitting = fitting_seconds(train, config.model.hidden_size, labels, device)
        numbers["estimate"] = estimate(config, len(rows), rate, fitting)._asdict()
    return numbers


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each run, or the estimate."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders of llava-rad pretrain")
    made.add_argument(
        "--directory", type=Path, default=Path(), metavar="DIR", help="in which the runs were started (.)"
    )
    made.add_argument("--config", default="rad-dino", help="configuration of the estimate (%(default)s)")
    made.add_argument("--images", type=int, default=19_237, help="probed images (those of CANDID-PTX)")
    made.add_argument("--processes", type=int, default=16, help="that train (%(default)s)")
    made.add_argument("--tflops", type=float, default=315.0, help="TFLOP/s that each reaches (%(default)s)")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
    options = made.parse_args(argv)
    if not options.directory.is_dir():
        made.error("--directory: there is no such folder")
    numbers: dict[str, Any] = {}
    for run in map(Path.absolute, options.runs):
        try:
            with contextlib.chdir(options.directory):
                numbers[run.name] = measured(run)
        except LlavaRadError as error:
            made.error(f"{run.name}: {error}; relative paths of its configuration begin in --directory DIR")
    if not options.runs:
        config, rate = load_config(options.config), options.tflops * options.processes
        numbers["estimate"] = estimate(config, options.images, rate)._asdict()
    if options.json is not None:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
