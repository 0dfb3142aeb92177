"""``llava-rad train``: the report generator, from image-report pairs and a frozen encoder."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from llava_rad.commands import options as opt
from llava_rad.commands import runs
from llava_rad.commands.console import stdout_to_stderr

EPILOG = "\n\n".join(
    (
        "Several GPUs: torchrun --nproc-per-node 4 --no-python llava-rad train ... On several machines the same, or "
        "deepspeed --no_python --no_local_rank (docs/how-to-many-nodes.md).",
        "The same command continues from the newest checkpoint.",
        "The run folder holds reports and is as confidential as the data.",
        "Exit codes: 0 done; 1 failed; 2 the configuration or the data cannot be run; 5 weights are missing or do not "
        "fit; 130 interrupted.",
    )
)
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE...",
        help="Changes to the configuration, values in YAML: optimization.epochs=1 'data.pairs=[a.jsonl, b.jsonl]'.",
        show_default=False,
    ),
]
Config = Annotated[
    str,
    typer.Option(
        "--config",
        "-c",
        help="Name of a configuration that comes with the package (paper, paper-lora, tiny), or a YAML file.",
        metavar="NAME|FILE",
    ),
]
Run = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Run folder: checkpoints, curves, the model. Default: runs/ and the configuration's name.",
        metavar="FOLDER",
        show_default=False,
    ),
]


def command(
    overrides: Overrides = None,
    config: Config = "paper",
    output: Run = None,
    validate: Annotated[
        bool,
        typer.Option("--validate", help="Check configuration, data and parts, estimate memory and time; do not train."),
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
    """Train projector and language model on image-report pairs, the encoder frozen (the paper's report generator)."""
    runs.heed(processes=processes, tflops=tflops, validate=validate)
    which = runs.part_of(part, cache_only=cache_only)
    from encoder.runs.config import dump  # pydantic
    from llava_rad.training.config import load_config

    run = load_config(config, overrides or [])
    if show:
        sys.stdout.write(dump(run))
        return
    folder = output or Path("runs") / run.name
    if validate:
        from llava_rad.training.validation import validate as look

        runs.show_report(look(run, processes=runs.expected(processes), offline=offline, output=folder, tflops=tflops))
        return
    if cache_only:
        from encoder.runs.images import prepare_images
        from llava_rad.training.data import cache_builder, cache_folder, select_pairs
        from llava_rad.training.initial import recipe_of

        recipe = recipe_of(run, offline=offline)
        rows = select_pairs(run.data, run.study.inputs).images.rows
        make = partial(cache_builder, run.data, rows, recipe, cache_folder(run, folder))
        with runs.resumable(restart=False, quiet=quiet):
            cache = prepare_images(make, part=which, stage_folder=stage, progress=runs.speaks(quiet))
        runs.show_cache(cache, which, quiet=quiet)
        return
    from llava_rad.training import run as training

    with runs.resumable(restart=restart, quiet=quiet), stdout_to_stderr():  # DeepSpeed, and the compiler that it starts
        training.run(run, folder, offline=offline, progress=not quiet, restart=restart, stage=stage)
