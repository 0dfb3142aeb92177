"""``llava-rad pretrain``: an image encoder from radiographs alone, as RAD-DINO was trained."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from llava_rad.commands import options as opt
from llava_rad.commands import runs
from llava_rad.commands.console import note

EPILOG = "\n\n".join(
    (
        "Several GPUs: torchrun --nproc-per-node 8 --no-python llava-rad pretrain ... (docs/how-to-many-nodes.md).",
        "The same command continues from the newest checkpoint.",
        "Exit codes: 0 done; 1 failed; 2 the configuration or the data cannot be run; 5 weights are missing or do not "
        "fit; 130 interrupted.",
    )
)
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE...",
        help="Changes to the configuration, values in YAML: optimization.steps=1000 'data.manifests=[a.csv, b.csv]'.",
        show_default=False,
    ),
]
Config = Annotated[
    str,
    typer.Option(
        "--config",
        "-c",
        help="Name of a configuration that comes with the package, or a YAML file.",
        metavar="NAME|FILE",
    ),
]
Run = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Run folder: checkpoints, curves, the exported encoder. Default: runs/ and the configuration's name.",
        metavar="FOLDER",
        show_default=False,
    ),
]


def command(
    overrides: Overrides = None,
    config: Config = "rad-dino",
    output: Run = None,
    validate: Annotated[
        bool, typer.Option("--validate", help="Check configuration, data, weights and memory, and do not train.")
    ] = False,
    processes: runs.Processes = None,
    tflops: runs.Tflops = None,
    cache_only: runs.CacheOnly = False,
    part: runs.Part = None,
    stage: runs.Stage = None,
    show: runs.Show = False,
    restart: runs.Restart = False,
    offline: opt.Offline = False,
    quiet: runs.Quiet = False,
) -> None:
    """Pre-train an image encoder on chest radiographs, without labels (DINOv2's method, RAD-DINO's recipe)."""
    runs.heed(processes=processes, tflops=tflops, validate=validate)
    which = runs.part_of(part, cache_only=cache_only)
    from encoder.pretraining.config import load_config
    from encoder.runs.config import dump  # pydantic

    run = load_config(config, overrides or [])
    if show:
        sys.stdout.write(dump(run))
        return
    folder = output or Path("runs") / run.name
    if validate:
        from encoder.pretraining.validation import validate as look

        runs.show_report(look(run, processes=runs.expected(processes), offline=offline, output=folder, tflops=tflops))
        return
    if cache_only:
        from encoder.pretraining.data import cache_builder, training_rows
        from encoder.runs.images import prepare_images

        make = partial(cache_builder, run, folder, training_rows(run).rows)
        with runs.resumable(restart=False, quiet=quiet):
            cache = prepare_images(make, part=which, stage_folder=stage, progress=runs.speaks(quiet))
        runs.show_cache(cache, which, quiet=quiet)
        return
    from encoder.pretraining import train as engine

    with runs.resumable(restart=restart, quiet=quiet):
        exported = engine.run(run, folder, offline=offline, progress=not quiet, restart=restart, stage=stage)
    if runs.speaks(quiet):
        note(f"the encoder is in {exported}")
