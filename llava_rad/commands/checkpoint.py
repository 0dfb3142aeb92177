"""``llava-rad assemble`` and ``llava-rad convert``: commands that make a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from encoder.backbones.registry import ENCODERS
from llava_rad.commands import options as opt
from llava_rad.commands.console import note
from llava_rad.conversion import published


def assemble(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the new checkpoint.")],
    encoder: Annotated[
        str,
        typer.Option(
            help="Encoder, such as RAD-DINO: its name (docs/encoders.md), a folder, a hub repository or "
            "a file of weights.",
            metavar="NAME-DIR-OR-HUB-ID",
            show_default=False,
        ),
    ],
    language_model: Annotated[
        str,
        typer.Option(
            help="Language model, such as Vicuna-7B, or a PEFT adapter: a folder or a hub repository.",
            metavar="DIR-OR-HUB-ID",
            show_default=False,
        ),
    ],
    projector: Annotated[
        Path | None,
        typer.Option(help="File projector.safetensors. Default: random weights, to be trained.", show_default=False),
    ] = None,
    encoder_kind: Annotated[
        str | None,
        typer.Option(
            help=f"Name of the encoder, if its files do not tell: {', '.join(ENCODERS)}.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Preprocessing recipe. Default: the encoder's own.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model in reports.", show_default=False)] = None,
    encoder_revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub repository.", show_default=False)
    ] = None,
    language_model_revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub repository.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of a random projector.")] = 0,
    offline: opt.Offline = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what OUT holds.")] = False,
) -> None:
    """Combine an encoder, a projector and a language model into a checkpoint folder."""
    from llava_rad.model import assemble as model
    from llava_rad.outputs.files import held_output

    context.with_resource(held_output(out))
    model.assemble(
        encoder,
        language_model,
        out,
        encoder_kind=encoder_kind,
        recipe=recipe,
        projector=projector,
        name=name,
        encoder_revision=encoder_revision,
        language_model_revision=language_model_revision,
        seed=seed,
        offline=offline,
        force=overwrite,
    )
    note(f"the checkpoint is in {out}")


def convert(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, or a hub repository owner/name.")],
    target: Annotated[Path, typer.Argument(metavar="DEST", help="Folder of the new checkpoint.")],
    kind: Annotated[
        str,
        typer.Option("--from", help=f"The model that SOURCE is: {', '.join(published.MODELS)}.", metavar="MODEL"),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model of an adapter, or image tower of LLaVA-1.5. Default: the one that the model names.",
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
    """Convert the published weights of a report model into a checkpoint folder.

    An interrupted conversion leaves no checkpoint; the same command starts anew.
    """
    from llava_rad.outputs.files import held_output

    if kind not in published.MODELS:
        raise typer.BadParameter(f"choose one of {', '.join(published.MODELS)}", param_hint="--from")
    model = published.MODELS[kind]
    if base is not None and not model.takes_base:
        raise typer.BadParameter(f"{kind} has all its parts", param_hint="--base")
    context.with_resource(held_output(target))
    note(f"{model.repository} is under its publisher's licence: {model.licence} ({model.page})")
    published.convert(kind, source, target, base=base, revision=revision, offline=offline, force=overwrite)
    note(f"the checkpoint is in {target}")
