"""Run the paper's ablations of pre-training (B.1 to B.3, C.1, table 3): a sweep of runs, then one table and one plot.

    python scripts/ablation.py initialisation --config rad-dino --probe vindr.csv --output OUT 'data.manifests=[a.csv]'
    python scripts/ablation.py size --launcher 'torchrun --nproc-per-node 8 --no-python' ...   # a process for each GPU

Each variant is `llava-rad pretrain` with a few changes; one `llava-rad probe linear` compares them. Every step resumes
where it stopped, so repeat the same command after an interruption. Overrides at the end apply to all variants.

ablations:
  initialisation   the start as configured, random weights, and the start itself unadapted (B.2)
  objective        with and without masked image modelling (table 3)
  resolution       --sizes pixels, pre-training and probing at each (B.1, C.1)
  size             --shares of the training subjects, each contained in the larger ones (B.3)
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ABLATIONS = ("initialisation", "objective", "resolution", "size")
PATCH = 14
LOCAL = 196 / 518
"""Side of local crops as a share of that of global ones."""


@dataclass(frozen=True)
class Variant:
    """One row of the sweep.

    Attributes:
        name: label in the table.
        overrides: changes to the configuration; None is the untrained start.
        recipe: preprocessing of its probe; None is that of the command.
    """

    name: str
    overrides: tuple[str, ...] | None
    recipe: str | None = None


def variants(ablation: str, sizes: list[int], shares: list[float]) -> list[Variant]:
    """Rows of an ablation, the reference first."""
    if ablation == "initialisation":
        return [Variant("continued", ()), Variant("random-start", ("init.source=random",)), Variant("unadapted", None)]
    if ablation == "objective":
        return [Variant("with-mim", ()), Variant("no-mim", ("loss.ibot=0.0",))]
    if ablation == "resolution":
        return [
            Variant(
                f"{size}px",
                (
                    f"model.image_size={size}", f"data.size={size}", f"crops.global_size={size}",
                    f"crops.local_size={max(2, round(LOCAL * size / PATCH)) * PATCH}",
                ),
                f"rad-dino-{size}" if size != 518 else "rad-dino",
            )
            for size in sizes
        ]  # fmt: skip
    return [Variant(f"{share:g}", () if share == 1 else (f"data.subset={share:g}",)) for share in shares]


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
    parser.add_argument("--probe", type=Path, required=True, help="manifest with labels, splits train and test or val")
    parser.add_argument("--output", type=Path, required=True, help="folder for runs and results")
    parser.add_argument(
        "--start", default="rad-dino", help="encoder of the variant 'unadapted', as for llava-rad probe"
    )
    parser.add_argument("--protocol", default="logistic", help="of llava-rad probe linear (default: logistic)")
    parser.add_argument("--recipe", help="preprocessing of the probe (default: the encoder's own)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 336, 448, 518], help="of resolution")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.1, 1.0], help="of size")
    parser.add_argument(
        "--launcher", default="", help="command that launches the training, such as 'torchrun --nproc-per-node 8 ...'"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="changes to the configuration of all variants"
    )
    options = parser.parse_intermixed_args(arguments)
    rows = variants(options.ablation, options.sizes, options.shares)
    if any(size % PATCH for size in options.sizes):
        parser.error(f"sizes are multiples of {PATCH}")
    options.output.mkdir(parents=True, exist_ok=True)
    for row in rows:
        folder = options.output / "runs" / row.name
        if row.overrides is not None and not (folder / "export" / "config.json").is_file():
            changed = [*options.overrides, *row.overrides]
            run("pretrain", "--config", options.config, "-o", folder, *changed, launcher=options.launcher)
    for recipe in dict.fromkeys(row.recipe for row in rows):
        of_it = [row for row in rows if row.recipe == recipe]
        named = [
            f"{row.name}={options.start if row.overrides is None else options.output / 'runs' / row.name}"
            for row in of_it
        ]
        encoders = [part for name in named for part in ("--encoder", name)]
        preparation = recipe or options.recipe
        results = options.output / "probe" / (recipe or "all")
        command = ["probe", "linear", "--data", options.probe, *encoders, "--protocol", options.protocol, "-o", results]
        run(*command, *(("--recipe", preparation) if preparation else ()))
    if len({row.recipe for row in rows}) > 1:
        print(together(options.output / "probe", rows))
    return 0


def together(folder: Path, rows: list[Variant]) -> str:
    """Table of macro scores of variants that were probed separately; also writes it with a plot into ``folder``."""
    import json

    from llava_rad.probes.folder import ProbeFolder, ProbeTable, bars, linear_bars

    found = {
        row.name: json.loads((folder / str(row.recipe) / "encoders" / f"{row.name}.json").read_bytes()) for row in rows
    }
    cells = [["variant", "macro AUPRC", "macro AUROC"]]
    for name, one in found.items():
        cells.append([name, *(f"{100 * sum(one['macro'][k]) / len(one['macro'][k]):.1f}" for k in ("auprc", "auroc"))])
    table = ProbeTable("Ablation of the resolution", cells)
    ProbeFolder(folder, {}).finish(table, bars(linear_bars(found), axis="AUROC x 100"))
    return table.text()


if __name__ == "__main__":
    sys.exit(main())
