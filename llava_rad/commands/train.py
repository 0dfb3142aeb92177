"""``llava-rad train``: the report generator, from image-report pairs and a frozen encoder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from llava_rad.commands import options as opt
from llava_rad.commands.console import note, show_error, stdout_to_stderr

EPILOG = "\n\n".join(
    (
        "Several GPUs: torchrun --nproc-per-node 4 --no-python llava-rad train ... On several machines the same, or "
        "deepspeed --no_python --no_local_rank (docs/training.md).",
        "The same command again goes on from the newest checkpoint in the run folder. What it writes there holds "
        "reports: it is as confidential as the data.",
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
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="For --validate: as many processes (GPUs) as will train. Default: as started by torchrun, else 1.",
            show_default=False,
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the whole configuration, defaults included, and do not train.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew in a run folder that holds checkpoints, and remove them.")
    ] = False,
    offline: opt.Offline = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, errors only.")] = False,
) -> None:
    """Train projector and language model on image-report pairs, the encoder frozen (the paper's report generator)."""
    if processes is not None and not validate:
        raise typer.BadParameter("only --validate takes a number; torchrun starts processes", param_hint="--processes")
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from llava_rad.training.loading import dump, load_config  # pydantic

    run = load_config(config, overrides or [])
    if show:
        sys.stdout.write(dump(run))
        return
    if validate:
        from llava_rad.training.validation import validate as look

        report = look(run, processes=processes or int(os.environ.get("WORLD_SIZE", "1")), offline=offline)
        sys.stdout.write(report.to_text())
        sys.stdout.flush()
        for problem in report.problems:
            show_error(problem)
        if report.problems:
            raise typer.Exit(report.problems[0].exit_code)
        return
    from llava_rad.training import run as training

    folder = output or Path("runs") / run.name
    first = not quiet and os.environ.get("RANK", "0") == "0"
    try:
        with stdout_to_stderr():  # DeepSpeed, and the compiler that it starts
            training.run(run, folder, offline=offline, progress=not quiet, restart=restart)
    except KeyboardInterrupt:
        if first:
            note(f"interrupted: the same command{' without --restart' if restart else ''} goes on from here")
        raise typer.Exit(130) from None
