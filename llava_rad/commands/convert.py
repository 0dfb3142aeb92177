"""``llava-rad convert``: a published report model as a checkpoint."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llava_rad.commands import options as opt
from llava_rad.commands.console import note
from llava_rad.conversion.published import model_named


class Kind(StrEnum):
    """Models that are converted."""

    maira_2 = "maira-2"
    llava_rad = "llava-rad"
    llava = "llava-1.5"


def command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, or a hub repository owner/name.")],
    target: Annotated[Path, typer.Argument(metavar="DEST", help="Folder of the new checkpoint.")],
    kind: Annotated[Kind, typer.Option("--from", help="Which model SOURCE is.", show_default=False)],
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model of an adapter (llava-rad). Default: the one that the adapter names.",
            metavar="DIR-OR-HUB-ID",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub repository.", show_default=False)
    ] = None,
    offline: opt.Offline = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what DEST holds.")] = False,
) -> None:
    """Turn the published weights of a report model into a checkpoint folder that every other command reads.

    The weights are read and written one file at a time and keep their type. An interrupted conversion leaves no
    checkpoint behind; the same command again starts anew.
    """
    model = model_named(kind.value)
    if base is not None and kind is not Kind.llava_rad:
        raise typer.BadParameter("only llava-rad is an adapter of a base model", param_hint="--base")
    note(f"{model.repository} is under its publisher's licence: {model.licence} ({model.page})")
    from llava_rad.conversion.convert import convert  # torch

    convert(kind.value, source, target, base=base, revision=revision, offline=offline, force=overwrite)
    note(f"the checkpoint is in {target}")
