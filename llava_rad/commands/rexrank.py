"""``llava-rad rexrank``: the inference contract of the leaderboard ReXrank."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from encoder.runs.progress import progress_bar
from llava_rad.commands import options as opt
from llava_rad.commands.console import note, show_error, uninterrupted, warn_of_slow_type
from llava_rad.generation.options import GenerationOptions

EPILOG = "\n\n".join(
    (
        "Contract: rajpurkarlab/ReXrank, example_files/submission_tutorial.md. Each study of the input gets a "
        "model_prediction ('Findings: ...'); everything else is kept. Studies that the output holds are not written "
        "again.",
        "Each report is written from the study's frontal image (key_image_path) and, where the model's prompt has a "
        "place for it, a lateral image, the indication and the comparison.",
        "A study whose frontal image cannot be read has an empty prediction and is named by its number (exit code 3); "
        "the next run tries it again.",
        "The output holds the reports of the input and is as confidential as these.",
    )
)
app = typer.Typer(help="Reports for the leaderboard ReXrank.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@opt.expand
def infer(
    context: typer.Context,
    input_json_file: Annotated[
        Path,
        typer.Option("--input_json_file", help="ReXrank's file of studies.", metavar="FILE", show_default=False),
    ],
    save_json_file: Annotated[
        Path,
        typer.Option(
            "--save_json_file",
            "--output_json_file",
            help="The same file with predictions; an unfinished one is continued.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    img_root_dir: Annotated[
        Path, typer.Option("--img_root_dir", help="Folder of the images.", metavar="FOLDER", show_default=False)
    ],
    *,
    options: Annotated[
        GenerationOptions,
        opt.Fields(
            "model", "revision", "offline", "device", "dtype", "batch_size", "vllm_python", "max_new_tokens",
            "num_beams", "temperature", "seed", "prompt", "compile",
        ),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write all predictions anew.")] = False,
    quiet: opt.Quiet = False,
) -> None:  # fmt: skip
    """Write a prediction for each study of a file of ReXrank."""
    from llava_rad.benchmark.rexrank import Studies
    from llava_rad.generation.report_writer import ReportWriter
    from llava_rad.outputs.files import check_output, held_output

    warn_of_slow_type(options.dtype, options.device)
    check_output(save_json_file, inputs=[input_json_file], overwrite=True)
    context.with_resource(held_output(save_json_file))
    studies = Studies.load(input_json_file, img_root_dir, save_json_file, overwrite=overwrite)
    left = studies.left()
    failed = 0
    try:
        with (
            ReportWriter(options) as writer,
            progress_bar(len(studies), "studies", not quiet, len(studies) - len(left)) as progress,
        ):
            for number, error in studies.write(writer, left, (lambda message: None) if quiet else note):
                progress.update()
                if error is not None:
                    failed += 1
                    show_error(error, of=f"study {number}: ")
    except KeyboardInterrupt:
        with uninterrupted():
            studies.save()
        note("interrupted; the same command continues the run")
        raise typer.Exit(130) from None
    studies.save()
    if not quiet:
        note(f"{len(left) - failed:,} of {len(studies):,} predictions written, {len(studies) - len(left):,} kept")
    if failed:
        raise typer.Exit(3)


app.command("infer", epilog=EPILOG)(infer)
