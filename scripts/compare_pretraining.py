"""Compare the probes of pre-training runs before and after training, with intervals, and plot their curves.

    python -m scripts.compare_pretraining RUN... [--manifest LABELLED.csv] [--plot curves.png] [--draws 1000]

RUN is an output folder of ``llava-rad pretrain`` with its export. Runs with the same start share one line "before".
Prints a table in Markdown: macro averages of the frozen probes (see ``encoder/pretraining/probes.py``) on the split
``val`` of the labelled manifest (by default the first run's ``probe.manifest``), each with its 95 % interval, and the
change from before with its own. Intervals are percentiles over bootstrap samples of patients; before and after are
compared on the same samples. They measure the variation by choice of patients, not by training: for that, compare
seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from encoder.datasets.manifest import read_manifest
from encoder.errors import LlavaRadError
from encoder.pretraining.config import PretrainingConfig, load_config
from encoder.pretraining.initialisation import load_backbone
from encoder.pretraining.probes import Predictions, Probe
from encoder.pretraining.vit import VisionTransformer
from encoder.runs.curves import plot

SCORES = ("linear AUPRC", "linear AUROC", "kNN AUROC")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """Score of one network.

    Attributes:
        points: [3], in the order of ``SCORES``, on all patients.
        samples: [draws, 3], on bootstrap samples.
    """

    points: Floats
    samples: Floats


def judge(predicted: Predictions, draws: int) -> Judged:
    """Score on all patients and on bootstrap samples of them; the samples are the same for every network."""
    from llava_rad.probes import comparison
    from metrics.bootstrap import Bootstrap

    patients = Bootstrap(samples=draws).patients(
        [f"{row.dataset}/{row.subject}" if row.subject else "" for row in predicted.rows]
    )
    linear, near = (
        comparison.Predictions(predicted.labels, predicted.truth, [odds], predicted.labels)
        for odds in (predicted.linear, predicted.knn)
    )
    macro = [
        np.stack([table(linear)[name, comparison.MACRO] for name in comparison.SCORES]
                 + [table(near)["auroc", comparison.MACRO]], axis=1)
        for table in (comparison.points, lambda one: comparison.draws(one, patients))
    ]  # fmt: skip
    return Judged(macro[0][0], macro[1])


def backbone(config: PretrainingConfig, source: str | None = None) -> VisionTransformer:
    """Network at the start of a run, or that of another ``source`` at the run's size."""
    if source is not None:
        config = config.model_copy(update={"init": config.init.model_copy(update={"source": source})})
    torch.manual_seed(config.seed)
    network = VisionTransformer(config.model)
    tensors, _ = load_backbone(config, offline=True)
    if tensors is not None:
        network.load_state_dict(tensors)
    return network.eval()


def table(before: dict[str, Judged], after: dict[str, tuple[str, Judged]]) -> list[str]:
    """Lines of Markdown. ``after``: run -> (name of its start, scores)."""
    lines = ["| | " + " | ".join(SCORES) + " |", "|---" * (1 + len(SCORES)) + "|"]
    for name, start in before.items():
        cells = [
            f"{p:.3f} ({low:.3f} to {high:.3f})"
            for p, low, high in zip(start.points, *ends(start.samples), strict=True)
        ]
        lines.append(f"| before: {name} | " + " | ".join(cells) + " |")
    for run, (name, end) in after.items():
        start = before[name]
        limits = ends(end.samples - start.samples)
        changes = zip(end.points, end.points - start.points, *limits, strict=True)
        cells = [f"{p:.3f}, {change:+.3f} ({low:+.3f} to {high:+.3f})" for p, change, low, high in changes]
        lines.append(f"| after: {run} | " + " | ".join(cells) + " |")
    return lines


def ends(samples: Floats) -> tuple[Floats, Floats]:
    """2.5 % and 97.5 % points of each column."""
    low, high = np.nanpercentile(samples, (2.5, 97.5), axis=0)
    return low, high


def compare(runs: Sequence[Path], manifest: str | None, draws: int) -> list[str]:
    """Lines of the table, and one about the images.

    Raises:
        LlavaRadError: if a run is not finished, no manifest is named, or it cannot be probed.
    """
    configs = {}
    for run in runs:
        if not (run / "export" / "model.safetensors").is_file():
            raise LlavaRadError(f"{run} has no export: it is no run folder, or the run is not finished")
        configs[run] = load_config(str(run / "config.yaml"))
    first = next(iter(configs.values()))
    path, size = manifest or first.probe.manifest, first.probe.size or first.crops.global_size
    if path is None:
        raise LlavaRadError("the first run had no probe.manifest", hint="name one with --manifest")
    probe = Probe(read_manifest(Path(path)), size=size)

    def judged(network: VisionTransformer) -> Judged:
        return judge(probe.predict(probe.features(lambda images: network.features(images)[0])), draws)

    before: dict[str, Judged] = {}
    after: dict[str, tuple[str, Judged]] = {}
    for run, config in configs.items():
        start = config.init.source if config.init.source != "random" else f"random, seed {config.seed}"
        if start not in before:
            before[start] = judged(backbone(config))
        after[run.name] = start, judged(backbone(config, str(run / "export")))
    train = sum(row.split == "train" for row in probe.rows)
    images = f"{train} images to fit, {len(probe.rows) - train} to judge, {size} px, {len(probe.labels)} labels"
    return [*table(before, after), "", f"{images}; 95 % intervals over {draws} bootstrap samples of patients"]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; the exit code is 1 after an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--manifest", help="labelled images with the splits train and val")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap samples [1000]")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also plot the curves of all runs")
    options = parser.parse_args(argv)
    try:
        print("\n".join(compare(options.runs, options.manifest, options.draws)))
        if options.plot:
            plot(options.runs, options.plot)
    except LlavaRadError as error:
        print(f"error: {error}" + (f"\n  hint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
