"""``llava-rad doctor``: is everything here that is needed?"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from llava_rad.commands import options as opt


def command(
    format: Annotated[opt.Plain, typer.Option("--format", "-f", help="Form of the answer.")] = opt.Plain.text,
    model: Annotated[
        str | None,
        typer.Option(
            help="Say how much memory this checkpoint takes, and whether it is there.",
            metavar="DIR-OR-HUB-ID",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show versions, decoders, device, cache and embedded model, and what to do about what is missing (exit code 1)."""
    from llava_rad.doctor import diagnose

    diagnosis = diagnose(model)
    text = diagnosis.model_dump_json(indent=2) + "\n" if format is opt.Plain.json else diagnosis.to_text()
    sys.stdout.write(text)
    if not diagnosis.ok:
        raise typer.Exit(1)
