"""Common parts of ``pretrain`` and ``train``: options, the report of ``--validate``, the end by Ctrl-C."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_rad.commands.console import note, show_error

if TYPE_CHECKING:
    from encoder.datasets.pixel_cache import Cache
    from encoder.runs.preflight import Report

Processes = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="For --validate: number of processes that will train. Default: as started by torchrun, else 1.",
        show_default=False,
    ),
]
Tflops = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="For --validate: TFLOP/s that training reaches on each process, from which GPU-hours follow. Default: 40 "
        "% of the rate measured on this machine.",
        show_default=False,
    ),
]
Show = Annotated[bool, typer.Option("--show", help="Print the whole configuration; do not train.")]
Restart = Annotated[bool, typer.Option("--restart", help="Remove the checkpoints of the run folder and start anew.")]
CacheOnly = Annotated[
    bool, typer.Option("--cache-only", help="Prepare the images (data.cache, or in the run folder); do not train.")
]
Part = Annotated[
    str | None,
    typer.Option(
        help="With --cache-only: prepare one of N parts, each on a machine of its own; the last one joins them.",
        metavar="K/N",
        show_default=False,
    ),
]
Stage = Annotated[
    Path | None,
    typer.Option(
        help="Copy the prepared images into a folder on each machine's own disk, and read them there.",
        metavar="FOLDER",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, errors only.")]


def heed(*, processes: int | None, tflops: float | None, validate: bool) -> None:
    """Check options that depend on one another.

    Raises:
        typer.BadParameter: if a number of processes or a rate is given without ``--validate``.
    """
    if tflops is not None and not validate:
        raise typer.BadParameter("only --validate takes a rate", param_hint="--tflops")
    if processes is not None and not validate:
        raise typer.BadParameter("only --validate takes a number; torchrun starts processes", param_hint="--processes")


def part_of(part: str | None, *, cache_only: bool) -> tuple[int, int] | None:
    """Read ``K/N``.

    Raises:
        typer.BadParameter: if it is none, or given without ``--cache-only``.
    """
    if part is None:
        return None
    if not cache_only:
        raise typer.BadParameter("only --cache-only prepares parts", param_hint="--part")
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", part)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise typer.BadParameter("expected K/N with K from 1 to N, such as 3/16", param_hint="--part")
    return int(match[1]), int(match[2])


def show_cache(cache: Cache | None, part: tuple[int, int] | None, *, quiet: bool) -> None:
    """Tell what ``--cache-only`` has done."""
    if not speaks(quiet):
        return
    if cache is not None:
        note(f"{len(cache):,} images are in {cache.folder}")
    elif part is not None:
        note(f"part {part[0]}/{part[1]} is done; other parts are missing")


def expected(processes: int | None) -> int:
    """Number of processes that will train: as stated, else as torchrun started them."""
    return processes or int(os.environ.get("WORLD_SIZE", "1"))


def show_report(report: Report) -> None:
    """Print what ``--validate`` found.

    Raises:
        typer.Exit: if something will not run.
    """
    sys.stdout.write(report.to_text())
    sys.stdout.flush()
    for problem in report.problems:
        show_error(problem)
    if report.problems:
        raise typer.Exit(report.problems[0].exit_code)


def speaks(quiet: bool) -> bool:
    """Return True on the first process, unless ``quiet``."""
    return not quiet and os.environ.get("RANK", "0") == "0"


@contextmanager
def resumable(*, restart: bool, quiet: bool) -> Iterator[None]:
    """End with exit code 130 and a note on how to resume if Ctrl-C stops the block.

    Raises:
        typer.Exit: if the block is interrupted.
    """
    try:
        yield
    except KeyboardInterrupt:
        if speaks(quiet):
            note(f"interrupted: the same command{' without --restart' if restart else ''} goes on from here")
        raise typer.Exit(130) from None
