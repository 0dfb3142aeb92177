"""Longer pre-training of RAD-DINO-S: a trial of four settings, a long run at 112 px, a short one at 224 px, controls.

Settings that differ from ``rad-dino-s``, whose 9,600 views gained nothing in AUROC over their start:

* Images are cached at 256 px, not at 128 px. There, a global crop of half the side had 64 pixels, enlarged to 112: the
  network never saw the detail that is probed at 224 px.
* The run is longer than the memory of the teacher. A momentum from 0.996 to 1 moves the teacher by
  1 - exp(-sum of (1 - momentum)) towards the student: 45 % in 300 steps, 96 % in 1,562.
* 64 images a step: Sinkhorn-Knopp and KoLeo compare the images of a step, and AdamW and the moving average cost as much
  as six images.
* The last tenth of the views is at 224 px, with heads that are trained already, as DINOv2 raises its resolution at the
  end (Oquab et al. 2023, section 3).

Undecided by the literature at this size, and so tried on training patients: the learning rate (RAD-DINO's 1e-3 is
about 2e-4 for 64 images by DINOv2's square-root rule; a quarter forgets less of the start) together with drop path
(DINOv2's small models were distilled without), and the augmentation (DINOv2 blurs 90 % of second views and solarizes a
fifth of them; RAD-DINO blurs less, Pérez-García et al. 2024, section 3.2).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from encoder.datasets.manifest import Row, read_manifest, write_manifest
from encoder.errors import LlavaRadError
from encoder.json_files import read_json
from scripts.demo.pretraining import precision

RATES: dict[str, tuple[str, ...]] = {
    "usual": ("optimization.base_lr=2e-4", "optimization.drop_path=0.3"),
    "gentle": ("optimization.base_lr=5e-5", "optimization.drop_path=0.1"),
}
AUGMENTATIONS: dict[str, tuple[str, ...]] = {
    "dinov2": (),
    "radiograph": (
        "augmentation.solarize=0", "augmentation.blur=[0, 0.3, 0.2]", "augmentation.global_blur_sigma=[0.1, 0.6]",
        "augmentation.local_blur_sigma=[0.1, 1.0]", "augmentation.brightness=0.25", "augmentation.contrast=0.25",
    ),
}  # fmt: skip
CANDIDATES = {f"{rate}-{change}": (*RATES[rate], *AUGMENTATIONS[change]) for rate in RATES for change in AUGMENTATIONS}
"""Settings of the trial: each learning rate with each augmentation, so that each is judged by two runs."""
CONTROLS: dict[str, tuple[str, ...]] = {
    "no-mim": ("loss.ibot=0",),
    "from-scratch": ("init.source=random", "init.freeze_backbone_steps=0"),
    "without-rsna": (),
}
"""Control -> changes; all run at 112 px for a third of the views, as ``main-third`` does for comparison."""
EQUAL = "main-third"
LOW, HIGH = "low", "high"
"""Names of the runs at 112 and at 224 px."""
KEPT = 50
"""Checkpoints of a run that are kept: all."""


@dataclass(frozen=True)
class Plan:
    """Sizes of the runs.

    Attributes:
        low: views at 112 px.
        high: views at 224 px after them.
        trial: views of each run of the trial, at 112 px.
        low_points: encoders exported from the run at 112 px.
        high_points: encoders exported from that at 224 px.
        batch: images a step at 112 px; half as many at 224 px and in the trial, whose runs need steps more than images.
        threads: processor threads.
        further: settings of ``llava-rad pretrain`` for every run, as ``data.subset=64``; the size, rate and start of
            the run at 224 px stay.
    """

    low: int = 100_000
    high: int = 10_000
    trial: int = 4_800
    low_points: int = 6
    high_points: int = 2
    batch: int = 64
    threads: int = 2
    further: tuple[str, ...] = ()

    def third(self) -> Plan:
        """The plan of the controls: a third of the views, one encoder."""
        return replace(self, low=self.low // 3, low_points=1)


def permitted(manifests: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Leave images without a stated licence out of the COVID collection, as only the others may be used in this way.

    Args:
        manifests: of ``scripts.demo.pretraining.write_manifests``.
        folder: of the new manifest.

    Returns:
        The manifests, ``covid`` replaced by the one of licensed images.
    """
    found = dict(manifests)
    if "covid" in found:
        rows = [row for row in read_manifest(found["covid"]) if openly_licensed(row)]
        found["covid"] = folder / "covid-licensed.csv"
        write_manifest(rows, found["covid"])
    return found


def openly_licensed(row: Row) -> bool:
    """Tell whether the image has a Creative Commons or Apache licence in its table."""
    return row.attributes.get("licence", "").upper().startswith(("CC", "APACHE"))


def settings(
    run: str, candidate: str, plan: Plan, manifests: Mapping[str, Path], runs: Path, control: str | None = None
) -> list[str]:
    """Arguments of ``llava-rad pretrain`` for a run.

    Args:
        run: ``trial``, ``LOW`` or ``HIGH``; the last continues the run ``LOW`` in ``runs``.
        candidate: key of ``CANDIDATES``.
        plan: sizes.
        manifests: of ``permitted``.
        runs: parent of the run folders; the images are cached there.
        control: key of ``CONTROLS``.

    Raises:
        LlavaRadError: if the run has less than two steps.
    """
    names = [name for name in manifests if name != "probe" and (name != "rsna" or control != "without-rsna")]
    listed = ", ".join(f'"{manifests[name].absolute()}"' for name in names)
    cache = runs / ("cache-without-rsna" if control == "without-rsna" else "cache")
    batch = plan.batch if run == LOW else max(2, plan.batch // 2)
    views = {LOW: plan.low, HIGH: plan.high}.get(run, plan.trial)
    points = {LOW: plan.low_points, HIGH: plan.high_points}.get(run, 1)
    steps = views // batch
    if steps < 2:
        raise LlavaRadError(f"{views} views are fewer than two steps of {batch} images")
    heads_alone = steps // (20 if run == LOW else 8)  # random heads would push a trained backbone in random directions
    momentum = {LOW: 0.996, HIGH: 0.998}.get(run, 0.99)  # a short trial needs a teacher that moves
    own = [
        f"data.manifests=[{listed}]", 'data.splits=[train, ""]', f'data.cache="{cache.absolute()}"', "data.size=256",
        f"optimization.steps={steps}", f"optimization.batch_size={batch}", "optimization.lr_rule=constant",
        f"optimization.warmup_steps={steps // 10}", f"optimization.teacher_momentum=[{momentum}, 1.0]",
        f"init.freeze_backbone_steps={heads_alone}", f"optimization.freeze_last_layer_steps={steps // 60}",
        "optimization.weight_decay=[0.04, 0.2]", "engine.log_every=10",
        f"engine.checkpoint_every={-(-steps // points)}", f"engine.keep_checkpoints={KEPT}",
        *precision(), *CANDIDATES[candidate], *CONTROLS.get(control or "", ()), *plan.further,
    ]  # fmt: skip
    if run == HIGH:
        rate = next(one for one in CANDIDATES[candidate] if one.startswith("optimization.base_lr="))
        own += [
            f'init.source="{(runs / LOW).absolute()}"', "init.heads=published", "init.freeze_backbone_steps=0",
            "optimization.freeze_last_layer_steps=0", "crops.global_size=224", "crops.local_size=98",
            f"optimization.base_lr={float(rate.partition('=')[2]) / 4:g}",
        ]  # fmt: skip
    return ["-c", "rad-dino-s", *own]


def begin(run: Path, arguments: Sequence[str], threads: int) -> subprocess.Popen[bytes]:
    """Start or resume ``llava-rad pretrain``; a finished run ends at once.

    Its messages are appended to ``RUN.log``.
    """
    run.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", "from llava_rad.cli import main; main()", "pretrain", "-o", str(run), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with run.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def finish(run: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a run; an interrupt ends it after a checkpoint.

    Raises:
        LlavaRadError: if it failed.
    """
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    if code:
        raise LlavaRadError(f"the run {run.name} failed (exit code {code})", hint=f"see {run.with_suffix('.log').name}")


@dataclass(frozen=True)
class Point:
    """An exported encoder.

    Attributes:
        name: of run and step.
        views: image views before it, those of earlier runs included.
        folder: of the encoder.
    """

    name: str
    views: int
    folder: Path


def export_points(run: Path, output: Path, before: int = 0) -> list[Point]:
    """Export the teacher of every checkpoint of a run with the recipe ``rad-dino-224``.

    Args:
        run: folder of a finished run.
        output: parent of the encoders' folders.
        before: views of the runs that this one continues.

    Raises:
        LlavaRadError: if a checkpoint cannot be read.
    """
    from encoder.pretraining.config import load_config
    from encoder.pretraining.export import describe, export
    from encoder.pretraining.initialisation import CHECKPOINTS, TEACHER
    from encoder.runs.checkpoints import Checkpoints

    config = load_config(str(run / "config.yaml"))
    checkpoints = Checkpoints(run / CHECKPOINTS, KEPT)
    points = []
    for step in checkpoints.steps():
        name = f"{run.name}-{step:06d}"
        folder = output / name
        if not (folder / "config.json").is_file():
            groups, _ = checkpoints.load(checkpoints.folder / f"step-{step:08d}")
            teacher = {
                key.removeprefix("backbone."): tensor
                for key, tensor in groups[TEACHER].items()
                if key.startswith("backbone.")
            }
            card = describe(config, {}, step=step)
            export(teacher, config.model, folder, heads=None, image_size=224, card=card)
        points.append(Point(name, before + step * config.optimization.batch_size, folder))
    return points


def average(first: str, second: str, folder: Path) -> None:
    """Write the encoder whose weights are the means of two encoders' weights.

    The mean of a start and its fine-tuned weights often keeps what training forgets (Wortsman et al. 2022).

    Args:
        first: encoder, as ``--encoder`` of llava-rad takes it.
        second: encoder of the same shape, whose preprocessing recipe is kept.
        folder: where to.

    Raises:
        ModelError: if an encoder cannot be read.
    """
    import torch

    from encoder.backbones.loading import load_encoder

    start, end = (load_encoder(source, offline=True) for source in (first, second))
    with torch.no_grad():
        others = dict(start.named_parameters())
        for name, parameter in end.named_parameters():
            parameter.lerp_(others[name].to(parameter.dtype), 0.5)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    end.save_pretrained(unfinished)
    unfinished.rename(folder)


def choice(file: Path) -> str:
    """Read the chosen candidate from ``choice.json``, which may be edited.

    Raises:
        LlavaRadError: if it names none of ``CANDIDATES``.
    """
    chosen = str(read_json(file).get("chosen", ""))
    if chosen not in CANDIDATES:
        raise LlavaRadError(f"{file.name} chooses {chosen!r}", hint=f"choose one of {', '.join(CANDIDATES)}")
    return chosen
