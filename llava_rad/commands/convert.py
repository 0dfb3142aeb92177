"""``llava-rad convert``: a published report model as a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llava_rad.commands import options as opt
from llava_rad.commands.console import note
from llava_rad.conversion.published import MODELS, convert


def command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, or a hub repository owner/name.")],
    target: Annotated[Path, typer.Argument(metavar="DEST", help="Folder of the new checkpoint.")],
    kind: Annotated[
        str,
        typer.Option("--from", help=f"The model that SOURCE is: {', '.join(MODELS)}.", metavar="MODEL"),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model of an adapter. Default: the one that the adapter names.",
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
    if kind not in MODELS:
        raise typer.BadParameter(f"choose one of {', '.join(MODELS)}", param_hint="--from")
    model = MODELS[kind]
    if base is not None and not model.adapter:
        raise typer.BadParameter(f"{kind} is no adapter of a base model", param_hint="--base")
    note(f"{model.repository} is under its publisher's licence: {model.licence} ({model.page})")
    convert(kind, source, target, base=base, revision=revision, offline=offline, force=overwrite)
    note(f"the checkpoint is in {target}")
