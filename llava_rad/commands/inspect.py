"""``llava-rad inspect`` and ``llava-rad doctor``: commands that report on an image or on this installation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encoder.errors import ReadError
from llava_rad.commands import options as opt
from llava_rad.generation.sources import Source, expand
from llava_rad.generation.sources import example as example_path

if TYPE_CHECKING:
    from encoder.preprocessing import Recipe
    from encoder.reader.radiograph import PreparedImage
    from llava_rad.outputs.inspection import Inspection

File = Annotated[
    str | None, typer.Argument(metavar="FILE | -", help="One image; - is standard input.", show_default=False)
]
Picture = Annotated[
    Path | None,
    typer.Option(
        "--save-image",
        help="Save the image that the model gets as PNG. It still contains burned-in text.",
        metavar="PNG",
        show_default=False,
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="Preprocessing recipe. Default: the embedded model's.",
        show_default=False,
    ),
]


def inspect(
    context: typer.Context,
    file: File = None,
    example: Annotated[
        bool, typer.Option("--example", help="Read a real chest radiograph from the package pydicom-data.")
    ] = False,
    force: opt.Force = False,
    frame: opt.Frame = None,
    recipe: RecipeName = None,
    save_image: Picture = None,
    overwrite: opt.Overwrite = False,
    format: Annotated[opt.Plain, typer.Option("--format", "-f")] = opt.Plain.text,
    show_paths: opt.ShowPaths = False,
) -> None:
    """Show view, polarity, orientation, recipe and warnings of one image; no identifiers.

    An image that generate refuses is shown with the reason (exit code 4).
    """
    if example == (file is not None):
        raise typer.BadParameter("name one image, or --example", param_hint="FILE")
    named = example_path() if example else file
    assert named is not None
    sources = expand([named], stdin=sys.stdin.buffer).sources
    if len(sources) != 1:
        raise ReadError("missing", f"{len(sources)} images are named", hint="inspect shows one file at a time")
    (source,) = sources
    if save_image is not None:
        from llava_rad.outputs.files import check_output, held_output

        check_output(save_image, inputs=[source.path] if source.path else [], overwrite=overwrite)
        context.with_resource(held_output(save_image))
    inspection, image = _look(source, _recipe(recipe), force=force, frame=frame, show_paths=show_paths)
    sys.stdout.write(inspection.to_json() + "\n" if format is opt.Plain.json else inspection.to_text())
    if save_image is not None:
        from llava_rad.outputs.files import write_whole

        write_whole(save_image, _png(image), overwrite=overwrite)
    if inspection.refused is not None:
        raise typer.Exit(4)


def doctor(
    format: Annotated[opt.Plain, typer.Option("--format", "-f", help="Form of the answer.")] = opt.Plain.text,
    model: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint whose memory is estimated and compared with that of each device.",
            metavar="DIR-OR-HUB-ID",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check versions, decoders, devices, cache and models, and tell how to fix what is missing (exit code 1)."""
    from llava_rad.doctor import diagnose

    diagnosis = diagnose(model)
    text = diagnosis.model_dump_json(indent=2) + "\n" if format is opt.Plain.json else diagnosis.to_text()
    sys.stdout.write(text)
    if not diagnosis.ok:
        raise typer.Exit(1)


def _look(
    source: Source, recipe: Recipe, *, force: bool, frame: int | None, show_paths: bool
) -> tuple[Inspection, PreparedImage]:
    """Read the image, by force if it is refused, so that the reason can be seen."""
    from encoder.reader.sandbox import Reader
    from llava_rad.outputs.inspection import Inspection, Refusal
    from llava_rad.outputs.report import InputFacts, RecipeFacts

    refused = None
    with Reader() as reader:
        try:
            image = reader.prepare(source.content(), recipe, force=force, frame=frame)
        except ReadError as error:
            if not error.forcible:
                raise
            refused = Refusal(reason=error.reason, message=str(error))
            image = reader.prepare(source.content(), recipe, force=True, frame=frame)
    facts = InputFacts(
        sha256=image.sha256,
        path=str(source.path) if show_paths and source.path is not None else None,
        format=image.facts.format,
        view=image.facts.view,
        recipe=RecipeFacts(name=recipe.name, version=recipe.version),
        facts=image.facts,
    )
    return Inspection(input=facts, refused=refused, warnings=list(image.warnings)), image


def _recipe(name: str | None) -> Recipe:
    """Look up a recipe; None is that of the embedded model, or RAD-DINO's if no model is embedded."""
    from encoder.preprocessing import RECIPES

    if name is None:
        from llava_rad.model.checkpoint import DEMO
        from llava_rad.model.config import LlavaRadConfig

        return LlavaRadConfig.load(DEMO).preprocessing if (DEMO / "config.json").is_file() else RECIPES["rad-dino"]
    if name not in RECIPES:
        raise typer.BadParameter(f"choose one of {', '.join(RECIPES)}", param_hint="--recipe")
    return RECIPES[name]


def _png(image: PreparedImage) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.pixels).save(buffer, "PNG")
    return buffer.getvalue()
