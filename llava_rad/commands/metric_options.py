"""Options of the commands that score reports; the options of single metrics come from the registry."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_rad.commands.console import note
from metrics.registry import METRICS, SETS, classes, load, options

if TYPE_CHECKING:
    from metrics.base import LanguageModel

    MetricOptions = Any
else:
    # one dataclass with the fields of every registered metric
    MetricOptions = dataclass(frozen=True)(type("MetricOptions", options(), {}))

MODELS = "Weights of the metrics"
LISTED = (
    "METRICS: "
    + "; ".join(f"{', '.join(name for name in METRICS if load(name) is kind)} ({kind.summary})" for kind in classes())
    + ". "
    + "; ".join(f"'{name}' is {', '.join(rows)}" for name, rows in SETS.items())
    + "; 'all' is every one."
)
"""Registered metrics, for the end of a command's help."""


def names(text: str) -> list[str]:
    """Split names at commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def path(help: str, *names: str, panel: str = MODELS, metavar: str = "FILE") -> typer.models.OptionInfo:
    """Return an option without a default to show: a file, a folder or a name."""
    option: typer.models.OptionInfo = typer.Option(
        *names, help=help, metavar=metavar, show_default=False, rich_help_panel=panel
    )
    return option


Metrics = Annotated[str, typer.Option(help="Names separated by commas; see below.", metavar="METRICS")]
Strata = Annotated[
    str, typer.Option(help="Columns to group by (sex,age,ethnicity,view); ages become bands.", metavar="COLUMNS")
]
Bootstrap = Annotated[int, typer.Option(min=1, help="Bootstrap samples.")]
CacheFile = Annotated[Path | None, path("File of annotations of earlier runs (default: user cache).")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep annotations.", rich_help_panel=MODELS)]
SkipMissing = Annotated[bool, typer.Option("--skip-missing", help="Exit with 0 if a metric could not be computed.")]


def language_model(folder: Path, device: str, dtype: str) -> LanguageModel:
    """Return a language model for the metrics that ask one, on the engine that writes reports.

    Raises:
        WeightsError: if it cannot be loaded.
    """
    from llava_rad.generation.text_generator import TextGenerator

    return TextGenerator(folder, device, dtype)


def give(text: str, output: Path | None, *, overwrite: bool) -> None:
    """Write scores to a file, or to standard output without one.

    Raises:
        OutputError: if the file cannot be written.
    """
    if output is None:
        sys.stdout.write(text)
        return
    from llava_rad.outputs.files import write_whole

    write_whole(output, text.encode(), overwrite=overwrite)


def end_with_missing(not_computed: Collection[str]) -> None:
    """Name the metrics that could not be computed.

    Raises:
        typer.Exit: with 5 if there are any.
    """
    if not_computed:
        note(f"not computed: {', '.join(not_computed)} (--skip-missing to accept that)")
        raise typer.Exit(5)
