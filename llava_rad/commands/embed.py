"""``llava-rad embed``: features of images as a file, for use elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llava_rad.commands import options as opt
from llava_rad.commands.console import bar, note, warn_of_slow_type
from llava_rad.commands.maps import Encoder, RecipeName
from llava_rad.commands.probe import BatchSize, DTypeOption, MaxUnreadable

EPILOG = (
    "An .npz file has the arrays features (float32), id, readable, warning (of an image that is probably damaged or "
    "incomplete) and about (JSON: encoder, SHA-256 of its weights, "
    "recipe); a .parquet file has the same as columns and metadata. Images keep their order; the id is the manifest's "
    "column 'image', else the file's SHA-256. An image that cannot be read keeps its place, with NaN as features "
    "(exit code 3).\n\n"
    "A stopped run continues with the same command. Features may identify patients and are as confidential as images."
)
_LISTED = 10


def command(
    context: typer.Context,
    images: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="A manifest (.csv), or images: files, folders, patterns.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A .npz or .parquet file.", metavar="FILE", show_default=False)
    ],
    encoder: Encoder = "rad-dino",
    features: Annotated[
        Literal["cls", "mean", "patches"],
        typer.Option(help="cls: the CLS token (or the encoder's own pooling). mean: of the patches. patches: all."),
    ] = "cls",
    recipe: RecipeName = None,
    recursive: opt.Recursive = False,
    batch_size: BatchSize = 32,
    device: opt.Device = "auto",
    dtype: DTypeOption = "float32",
    max_unreadable: MaxUnreadable = 0.01,
    offline: opt.Offline = False,
    show_paths: Annotated[
        bool, typer.Option("--show-paths", help="Add the files' paths, which may identify patients.")
    ] = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Compute features of images with a frozen encoder."""
    from encoder.reader.information import summary
    from llava_rad.outputs.files import check_output, held_output
    from llava_rad.probes import embedding, feature_files

    if output.suffix.lower() not in feature_files.FORMATS:
        raise typer.BadParameter(
            f"name a file that ends in {' or '.join(feature_files.FORMATS)}", param_hint="--output"
        )
    if output.suffix.lower() == ".parquet":
        feature_files.check_parquet()
    rows, ids = embedding.rows_of(images, recursive=recursive)
    if output.suffix.lower() == ".parquet" and show_paths:
        feature_files.check_paths(row.path for row in rows)
    check_output(output, inputs=[*map(Path, images), *(row.path for row in rows)], overwrite=overwrite)
    context.with_resource(held_output(output))
    warn_of_slow_type(dtype, device)
    work = embedding.Embedding(
        encoder, features, recipe=recipe, batch_size=batch_size, device=device, dtype=dtype, offline=offline
    )
    shown = (lambda done: None) if quiet else bar("images", len(rows))
    try:
        found = work.run(rows, ids, feature_files.work_folder(output), max_unreadable=max_unreadable, progress=shown)
    except KeyboardInterrupt:
        note("interrupted: completed images are kept, the same command continues")
        raise typer.Exit(130) from None
    feature_files.write_features(found, output, paths=show_paths, overwrite=overwrite)
    for number, reason in list(found.unreadable.items())[:_LISTED]:
        note(f"warning: image {number} of {len(rows)}: {reason}")
    if len(found.unreadable) > _LISTED:
        note(f"warning: {len(found.unreadable) - _LISTED} more images cannot be read")
    if text := summary(found.doubtful.values()):
        note(f"warning: {text[0].lower()}{text[1:]}")
    if not quiet:
        read = len(rows) - len(found.unreadable)
        shape = " x ".join(map(str, found.shape))
        note(f"{read} of {len(rows)} images, {features} {shape}, recipe {work.recipe.name}")
    if found.unreadable:
        raise typer.Exit(3)
