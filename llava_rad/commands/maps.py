"""``llava-rad maps``: self-attention of an encoder, and corresponding patches of two images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_rad.commands import options as opt
from llava_rad.commands.console import note

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.backbones.base import FrozenEncoder
    from encoder.preprocessing import Recipe

EPILOG = (
    "Maps show what the encoder computes, not evidence for a finding. A picture shows the radiograph and is as "
    "confidential. Research use only. Not for clinical use."
)
app = typer.Typer(
    help="Maps of frozen encoders: self-attention of the CLS token, correspondence of patches.",
    epilog=EPILOG,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Image = Annotated[Path, typer.Argument(metavar="IMAGE", help="DICOM or picture.")]
Encoder = Annotated[str, typer.Option(help="Name in docs/encoders.md, folder, or hub repository.", metavar="ENCODER")]
RecipeName = Annotated[
    str | None, typer.Option(help="Preprocessing recipe that replaces the encoder's own.", show_default=False)
]
Output = Annotated[Path, typer.Option("--output", "-o", help="A .png file.", metavar="FILE", show_default=False)]


@app.command("attention", epilog=EPILOG)
def attention(
    context: typer.Context,
    image: Image,
    output: Output,
    encoder: Encoder = "rad-dino",
    recipe: RecipeName = None,
    columns: Annotated[int, typer.Option(min=1, help="Pictures per row.")] = 4,
    offline: opt.Offline = False,
    force: opt.Force = False,
    overwrite: opt.Overwrite = False,
) -> None:
    """Draw the image, then the attention of the CLS token to each patch for each head of the last layer."""
    from encoder.backbones.attention_maps import cls_attention, grey, heat_map, png, sheet
    from llava_rad.outputs.files import check_output, held_output, write_whole

    check_output(output, inputs=[image], overwrite=overwrite)
    context.with_resource(held_output(output))
    model, recipe_used = _load(encoder, recipe, offline=offline)
    pixels = _prepared(image, recipe_used, force=force)
    maps = cls_attention(model, recipe_used.normalise(pixels[None]))[0].numpy()
    pictures = [grey(pixels), *(heat_map(pixels, one) for one in maps)]
    write_whole(output, png(sheet(pictures, columns)), overwrite=overwrite)
    note(f"{len(maps)} heads of the last layer, {maps.shape[1]} x {maps.shape[2]} patches")


@app.command("match", epilog=EPILOG)
def match(
    context: typer.Context,
    image: Image,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="Image to search.")],
    at: Annotated[
        str,
        typer.Option(help="Point of IMAGE as fractions of the prepared square from left and top, e.g. 0.3,0.6."),
    ],
    output: Output,
    encoder: Encoder = "rad-dino",
    recipe: RecipeName = None,
    offline: opt.Offline = False,
    force: opt.Force = False,
    overwrite: opt.Overwrite = False,
) -> None:
    """Draw IMAGE with the patch at a point, and OTHER with the cosine similarity of its patches to that patch.

    Prints the position of the most similar patch of OTHER, as fractions from left and top, and its similarity.
    """
    import numpy as np

    from encoder.backbones.attention_maps import cell_at, circled, correspondence, grey, heat_map, png, sheet, top_range
    from llava_rad.outputs.files import check_output, held_output, write_whole

    check_output(output, inputs=[image, other], overwrite=overwrite)
    context.with_resource(held_output(output))
    x, y = _point(at)
    model, recipe_used = _load(encoder, recipe, offline=offline)
    first, second = (_prepared(path, recipe_used, force=force) for path in (image, other))
    one, two = (model(recipe_used.normalise(pixels[None])).patches[0] for pixels in (first, second))
    side = round(len(one) ** 0.5)
    query = cell_at(x * recipe_used.size, y * recipe_used.size, recipe_used.size, side)
    found = correspondence(one, two, query).numpy()
    best = divmod(int(np.argmax(found)), side)
    low, high = top_range(found)
    pictures = [circled(grey(first), query, side), circled(heat_map(second, found, low=low, high=high), best, side)]
    write_whole(output, png(sheet(pictures, 2)), overwrite=overwrite)
    sys.stdout.write(f"{(best[1] + 0.5) / side:.3f},{(best[0] + 0.5) / side:.3f} {found[best]:.4f}\n")


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter("two comma-separated numbers", param_hint="--at") from None
    if not (0 <= x < 1 and 0 <= y < 1):
        raise typer.BadParameter("both numbers are from 0 to below 1", param_hint="--at")
    return x, y


def _load(encoder: str, recipe: str | None, *, offline: bool) -> tuple[FrozenEncoder, Recipe]:
    from encoder.backbones.loading import load_encoder
    from encoder.preprocessing import recipe_named

    model = load_encoder(encoder, offline=offline)
    return model, recipe_named(recipe or model.recipe)


def _prepared(path: Path, recipe: Recipe, *, force: bool) -> npt.NDArray[np.uint8]:
    from encoder.reader.sandbox import Reader

    with Reader() as reader:
        return reader.prepare(path, recipe, force=force).pixels
