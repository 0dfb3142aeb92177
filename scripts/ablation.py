"""Run the paper's ablations of pre-training (B.1 to B.3, C.1, table 3): a sweep of runs, one table beside the paper's.

    python scripts/ablation.py initialisation --probe vindr.csv --output OUT 'data.manifests=[a.csv, b.csv]'
    python scripts/ablation.py objective --segment lungs=lungs.csv --segment pneumothorax=candid.csv --output OUT ...
    python scripts/ablation.py diversity --sets '{path: mimic.csv, splits: [train]}' chexpert.csv padchest.csv \\
        --stop-on candid.csv --probe vindr.csv --output OUT
    python scripts/ablation.py size --launcher 'torchrun --nproc-per-node 8 --no-python' ...   # a process for each GPU

Each variant is `llava-rad pretrain` with a few changes; `llava-rad probe` compares them. Every step resumes where it
stopped, so repeat the command after an interruption. Overrides at the end apply to all variants.

ablations:
  initialisation   continued from DINOv2, random start, and DINOv2 ViT-B and ViT-G unadapted (table B.1)
  objective        with and without masked image modelling: Dice of a linear head (table 3)
  resolution       --sizes pixels, pre-training and probing at each (figures B.1, C.1)
  size             --shares of the training subjects, each contained in the larger ones (figure B.2)
  diversity        the first one, two, ... of --sets, frontal images; at last all sets with all views (figure B.2)
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from llava_rad.probes.folder import ProbeTable

ABLATIONS = ("initialisation", "objective", "resolution", "size", "diversity")
UNADAPTED = ("dinov2-base", "dinov2-giant")
PATCH = 14
LOCAL = 196 / 518
"""Side of local crops as a share of that of global ones."""
MASKS = {"lungs": r"lungs?$", "lung zones": "zone", "pneumothorax": "pneumothorax", "chest tubes": "tube", "ribs": ""}
"""Structure of table 3 -> pattern of the names of its masks."""


@dataclass(frozen=True)
class Variant:
    """One row of the sweep.

    Attributes:
        name: label in the table.
        overrides: changes to the configuration; None for an encoder that is not trained.
        paper: encoder of the paper's tables that it repeats; "" if the paper has a figure only.
        recipe: preprocessing of its probe; None is that of the command.
        encoder: the one that is not trained, as for ``llava-rad probe``.
    """

    name: str
    overrides: tuple[str, ...] | None
    paper: str = ""
    recipe: str | None = None
    encoder: str = ""


def variants(
    ablation: str,
    *,
    sizes: Sequence[int] = (),
    shares: Sequence[float] = (),
    sets: Sequence[str] = (),
    unadapted: Sequence[str] = UNADAPTED,
) -> list[Variant]:
    """Rows of an ablation, the reference first; arguments as on the command line."""
    if ablation == "initialisation":
        known = {"dinov2-base": "DINOv2 (ViT-B)", "dinov2-giant": "DINOv2 (ViT-G)"}
        split = [one.partition("=") if "=" in one else (one, "=", one) for one in unadapted]
        return [
            Variant("continued", (), "RAD-DINO"),
            Variant("random-start", ("init.source=random",), "RAD-DINO (random initialisation)"),
            *(Variant(name, None, known.get(name, ""), encoder=encoder) for name, _, encoder in split),
        ]
    if ablation == "objective":
        return [Variant("with-mim", (), "RAD-DINO"), Variant("no-mim", ("loss.ibot=0.0",), "RAD-DINO (no MIM)")]
    if ablation == "resolution":
        return [
            Variant(
                f"{size}px",
                (
                    f"model.image_size={size}", f"data.size={size}", f"crops.global_size={size}",
                    f"crops.local_size={max(2, round(LOCAL * size / PATCH)) * PATCH}",
                ),
                "RAD-DINO" if size == 518 else "",
                f"rad-dino-{size}" if size != 518 else "rad-dino",
            )
            for size in sizes
        ]  # fmt: skip
    if ablation == "size":
        return [
            Variant(f"{share:g}", (), "RAD-DINO") if share == 1 else Variant(f"{share:g}", (f"data.subset={share:g}",))
            for share in shares
        ]
    listed = [one if one.lstrip().startswith("{") else json.dumps(one) for one in sets]
    some = [
        Variant(f"{count}-sets", (f"data.manifests=[{', '.join(listed[:count])}]", "data.views=[frontal]"))
        for count in range(1, len(sets))
    ]
    return [*some, Variant("all-views", (f"data.manifests=[{', '.join(listed)}]", "data.views=null"), "RAD-DINO")]


def run(*arguments: str | Path, launcher: str = "") -> None:
    """Run ``llava-rad``, by a launcher if one is given; its output is shown.

    Raises:
        SystemExit: if it fails, with its exit code.
    """
    ours = [sys.executable, "-c", "from llava_rad.cli import main; main()"]
    done = subprocess.run([*shlex.split(launcher), *ours, *map(str, arguments)])
    if done.returncode:
        raise SystemExit(done.returncode)


def main(arguments: list[str] | None = None) -> int:
    """Train missing variants and probe all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ablation", choices=ABLATIONS)
    parser.add_argument("--config", default="rad-dino", help="configuration of llava-rad pretrain to vary")
    parser.add_argument("--probe", type=Path, help="manifest with labels, splits train and test or val")
    parser.add_argument(
        "--segment", action="append", default=[], metavar="STRUCTURE=FILE", help="manifest with masks of a structure "
        f"of table 3, repeatable: {', '.join(MASKS)}",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="folder for runs and results")
    parser.add_argument(
        "--unadapted", nargs="+", default=UNADAPTED, metavar="[NAME=]ENCODER",
        help="encoders of initialisation that are not trained, as for llava-rad probe: DINOv2 from the hub or a folder",
    )  # fmt: skip
    parser.add_argument("--protocol", default="logistic", help="of llava-rad probe linear (default: logistic)")
    parser.add_argument("--recipe", help="preprocessing of the probe (default: the encoder's own)")
    parser.add_argument("--segment-options", default="", help="further options of llava-rad probe segment")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 336, 448, 518], help="of resolution")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.1, 1.0], help="of size")
    parser.add_argument("--sets", nargs="+", default=[], metavar="MANIFEST", help="of diversity, in their order")
    parser.add_argument("--stop-on", type=Path, help="labelled manifest by whose probe loss each run stops early (B.3)")
    parser.add_argument("--patience", type=int, default=3, help="probes without a lower loss before it stops")
    parser.add_argument(
        "--launcher", default="", help="command that launches the training, such as 'torchrun --nproc-per-node 8 ...'"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="changes to the configuration of all variants"
    )
    options = parser.parse_intermixed_args(arguments)
    if any(size % PATCH for size in options.sizes):
        parser.error(f"sizes are multiples of {PATCH}")
    if options.ablation == "diversity" and not options.sets:
        parser.error("diversity needs --sets")
    if options.ablation == "objective" and not options.segment:
        parser.error("objective ends in Dice: name manifests with masks, --segment STRUCTURE=FILE")
    if options.ablation != "objective" and options.probe is None:
        parser.error(f"{options.ablation} needs --probe")
    masks: dict[str, Path] = {}
    for one in options.segment:
        structure, _, file = one.partition("=")
        if structure not in MASKS or not file:
            parser.error(f"--segment {one} is not STRUCTURE=FILE with one of {', '.join(MASKS)}")
        masks[structure] = Path(file)
    if options.stop_on is not None:
        stop = f"probe.manifest={json.dumps(str(options.stop_on))}"
        options.overrides += [stop, "probe.select=loss", f"probe.patience={options.patience}"]
    rows = variants(
        options.ablation, sizes=options.sizes, shares=options.shares, sets=options.sets, unadapted=options.unadapted
    )
    options.output.mkdir(parents=True, exist_ok=True)
    if given := [row for row in rows if row.overrides is None]:
        probe(options, given, None)  # before days of training, since weights may be missing
    for row in rows:
        train(options, row)
    tables = []
    if options.probe is not None:
        for recipe in dict.fromkeys(row.recipe for row in rows):
            probe(options, [row for row in rows if row.recipe == recipe], recipe)
        tables.append(together(options.output, options.ablation, rows))
    if masks:
        tables.append(segment(options, rows, masks))
    print("\n".join(table.text() for table in tables))
    return 0


def train(options: argparse.Namespace, row: Variant) -> None:
    """Run the pre-training of a row, unless it is done with the same configuration."""
    if row.overrides is None:
        return
    from encoder.pretraining.config import load_config

    folder = options.output / "runs" / row.name
    changed = [*options.overrides, *row.overrides]
    done = (folder / "export" / "config.json").is_file()
    if not done or load_config(options.config, changed) != load_config(str(folder / "config.yaml")):
        run("pretrain", "--config", options.config, "-o", folder, *changed, launcher=options.launcher)


def _encoders(options: argparse.Namespace, rows: Sequence[Variant]) -> list[str]:
    named = [f"{row.name}={row.encoder or options.output / 'runs' / row.name}" for row in rows]
    return [part for name in named for part in ("--encoder", name)]


def probe(options: argparse.Namespace, rows: Sequence[Variant], recipe: str | None) -> None:
    """Probe rows with one recipe; None is that of the command."""
    preparation = recipe or options.recipe
    results = options.output / "probe" / (recipe or "all")
    command = ["probe", "linear", "--data", options.probe, *_encoders(options, rows)]
    command += ["--protocol", options.protocol, "-o", results]
    run(*command, *(("--recipe", preparation) if preparation else ()))


def segment(options: argparse.Namespace, rows: Sequence[Variant], masks: dict[str, Path]) -> ProbeTable:
    """Train a linear head for each structure of table 3 and tabulate its Dice beside the paper's."""
    from encoder.datasets.manifest import read_manifest
    from encoder.probing.published import DICE
    from llava_rad.probes.folder import ProbeFolder, ProbeTable

    cells = [["variant", *(part for structure in masks for part in (structure, f"{structure}, paper"))]]
    cells += [[row.name] for row in rows]
    for structure, file in masks.items():
        there = {name for one in read_manifest(file) for name in one.masks}
        names = sorted(name for name in there if re.search(MASKS[structure], name))
        if not names:
            raise SystemExit(f"{file.name} has no masks of {structure}, but of {', '.join(sorted(there)) or 'nothing'}")
        folder = options.output / "segment" / structure.replace(" ", "-")
        command = ["probe", "segment", "--data", file, *_encoders(options, rows), "--head", "linear", "-o", folder]
        command += ["--structures", ",".join(names), "--target", structure, *shlex.split(options.segment_options)]
        if structure in ("pneumothorax", "chest tubes"):  # CANDID-PTX: without a mask, there is none
            command.append("--absent")
        run(*command, *(("--recipe", options.recipe) if options.recipe else ()))
        found = _results(folder)
        for row, line in zip(rows, cells[1:], strict=True):
            dice, paper = found[f"{row.name}, linear"]["together"], DICE[row.paper, "linear"][structure]
            line += [f"{100 * dice['mean']:.1f} ({100 * dice['sd']:.1f})", f"{paper.mean:.1f} ({paper.sd:.1f})"]
    table = ProbeTable(
        "Ablation of the objective: Dice of a linear head", cells, ("Mean (standard deviation), x 100.",)
    )
    ProbeFolder(options.output / "segment", {}).finish(table, None)
    return table


def _results(folder: Path) -> dict[str, Any]:
    files = (json.loads(file.read_bytes()) for file in sorted((folder / "encoders").glob("*.json")))
    return {content["encoder"]: content for content in files}


def together(output: Path, ablation: str, rows: Sequence[Variant]) -> ProbeTable:
    """Tabulate macro scores of all variants beside the paper's (VinDr-CXR); writes table and plot into ``probe``."""
    from encoder.probing.published import VINDR, column
    from llava_rad.probes.folder import ProbeFolder, ProbeTable, bars, linear_bars

    found = {row.name: _results(output / "probe" / (row.recipe or "all"))[row.name] for row in rows}
    cells = [["variant", "images", "macro AUPRC", "macro AUROC", "paper: VinDr-CXR AUPRC"]]
    for row in rows:
        macro = found[row.name]["macro"]
        scores = [f"{100 * sum(macro[score]) / len(macro[score]):.1f}" for score in ("auprc", "auroc")]
        paper = column("vindr-cxr", row.paper).get("macro")
        cells.append([row.name, _images(output / "runs" / row.name), *scores, f"{paper.mean:.1f}" if paper else ""])
    figures = {"resolution": "figures B.1 and C.1", "size": "figure B.2", "diversity": "figure B.2"}
    notes = [f"The paper's other numbers are in {figures[ablation]} only."] if ablation in figures else []
    averaged = {label.lower() for label in found[rows[0].name].get("averaged", ())}
    if averaged != {label.lower() for label in VINDR}:
        notes.append(f"Not comparable with the paper's: macro scores are of {len(averaged)} labels, not of its seven.")
    table = ProbeTable(f"Ablation of the {ablation}", cells, tuple(notes))
    ProbeFolder(output / "probe", {}).finish(table, bars(linear_bars(found), axis="AUROC x 100"))
    return table


def _images(run: Path) -> str:
    """Number of images that a run was trained on; "" if it is none."""
    try:
        kept = re.findall(r"^.*: ([\d,]+) kept", (run / "data.txt").read_text("utf-8"), re.MULTILINE)
    except OSError:
        return ""
    return f"{sum(int(number.replace(',', '')) for number in kept):,}"


if __name__ == "__main__":
    sys.exit(main())
