"""``llava-rad assemble``: a checkpoint from an encoder and a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llava_rad.commands import options as opt
from llava_rad.commands.console import note


def command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the new checkpoint.")],
    encoder: Annotated[
        str,
        typer.Option(
            help="RAD-DINO or another encoder of the paper: its name (docs/encoders.md), a folder, a hub repository or "
            "a file of weights.",
            metavar="NAME-DIR-OR-HUB-ID",
            show_default=False,
        ),
    ],
    language_model: Annotated[
        str,
        typer.Option(
            help="Vicuna-7B or another LlamaForCausalLM, or a PEFT adapter: a folder or a hub repository.",
            metavar="DIR-OR-HUB-ID",
            show_default=False,
        ),
    ],
    projector: Annotated[
        Path | None,
        typer.Option(help="projector.safetensors. Default: random weights, to be trained.", show_default=False),
    ] = None,
    encoder_kind: Annotated[
        str | None,
        typer.Option(
            help="Which encoder it is, where its files do not say: a name, such as chexzero.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Preprocessing recipe. Default: the encoder's own.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Option(help="What reports call the model.", show_default=False)] = None,
    encoder_revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub repository.", show_default=False)
    ] = None,
    language_model_revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub repository.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of a random projector.")] = 0,
    offline: opt.Offline = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what OUT holds.")] = False,
) -> None:
    """Put an encoder, a projector and a language model together into one checkpoint folder."""
    from llava_rad.model.assemble import assemble

    assemble(
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
