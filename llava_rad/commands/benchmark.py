"""``llava-rad benchmark``: reports of models on a data set, scored with reference points and the paper's results."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from encoder.errors import LlavaRadError
from llava_rad.benchmark.inputs import NAMES as NAMES_OF_INPUTS
from llava_rad.benchmark.inputs import InputSet
from llava_rad.benchmark.published import NAMES
from llava_rad.benchmark.reference_points import DESCRIPTIONS, POINTS
from llava_rad.commands import metric_options as metric
from llava_rad.commands import options as opt
from llava_rad.commands.console import bar, note, warn_of_slow_type
from metrics.base import Settings

EPILOG = "\n\n".join(
    (
        f"DATASET: {', '.join(NAMES)} (csv: any CSV or JSON lines with reports, with or without images).",
        "REFERENCE POINTS: " + "; ".join(f"{name} ({text})" for name, text in DESCRIPTIONS.items()) + ".",
        metric.LISTED,
        "The same command continues an interrupted run, also under torchrun or 'accelerate launch'.",
        "Exit codes: 0 done; 1 failed; 2 wrong usage; 3 some images are not there or could not be read (they count as "
        "empty reports); 5 a model or a metric's weights are missing (--skip-missing accepts the latter); 130 "
        "interrupted.",
        "The results folder holds reports and images and is as confidential as the data set; summary.* hold numbers "
        "only.",
    )
)
_DATA, _REPORTS, _OUTPUT = "Data", "Reports", "Output"
_PAPER = "paper,rules"
_USUAL = {"rexrank": "rexrank,findings,rules"}
"""Metrics of data sets whose leaderboard has its own."""


@opt.expand
def command(
    context: typer.Context,
    dataset: Annotated[str, typer.Option(help="Data set; see below.", metavar="DATASET", rich_help_panel=_DATA)],
    data: Annotated[
        Path,
        typer.Option(
            help="Top folder of the data set; for csv, rexrank, rexgradient and chexpert-plus the table.",
            metavar="PATH",
            rich_help_panel=_DATA,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Results folder.", metavar="DIR", show_default=False, rich_help_panel=_OUTPUT
        ),
    ],
    common: Annotated[Settings, opt.Fields("clean", "min_group", "precision", "allow_download")],
    own: Annotated[metric.MetricOptions, opt.Fields()],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model as 'llava-rad generate' takes it, repeatable: a folder, a hub repository, openai:URL#NAME, or "
            "NAME=one of these. Default: the embedded demonstration model, if no --predictions are given.",
            metavar="[NAME=]DIR-OR-HUB-ID-OR-SERVER",
            show_default=False,
            rich_help_panel=_REPORTS,
        ),
    ] = None,
    predictions: Annotated[
        list[str] | None,
        metric.path(
            "File of reports to score, repeatable: .jsonl, .json or .csv with the data set's ids.",
            panel=_REPORTS,
            metavar="[NAME=]FILE",
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            help="What the models are given, where a study has it, repeatable: each set is a run of its own, and what "
            f"each input is worth is compared by patient. Of {', '.join(NAMES_OF_INPUTS)}. Default: frontal.",
            metavar="frontal[,INPUT...]",
            show_default=False,
            rich_help_panel=_REPORTS,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        metric.path(
            "Folder of the images of rexrank, rexgradient or chexpert-plus (default: that of the table).",
            panel=_DATA,
            metavar="FOLDER",
        ),
    ] = None,
    reports: Annotated[
        Path | None, metric.path("Report files or table, as for 'llava-rad reports'.", panel=_DATA, metavar="PATH")
    ] = None,
    tables: Annotated[
        Path | None,
        metric.path("Folder of the tables of images, as for 'llava-rad reports'.", panel=_DATA, metavar="FOLDER"),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to score.", rich_help_panel=_DATA)] = "test",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Size of a random sample to score.", show_default=False, rich_help_panel=_DATA),
    ] = None,
    strata: metric.Strata = "",
    groups: Annotated[
        list[Path] | None,
        metric.path(
            "Table with these columns and id, study_id or subject_id (.csv, .csv.gz, .jsonl), repeatable.", panel=_DATA
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="paper: float32, greedy, at most 150 tokens, one image at a time. fast: bfloat16 in batches; compares "
            "a sample with the paper protocol.",
            metavar="paper|fast",
            rich_help_panel=_REPORTS,
        ),
    ] = "paper",
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Batch size of the fast protocol.", show_default=False, rich_help_panel=_REPORTS),
    ] = None,
    agreement_sample: Annotated[
        int, typer.Option(min=0, help="Number of reports of the fast protocol to compare.", rich_help_panel=_REPORTS)
    ] = 50,
    reference_points: Annotated[
        str, typer.Option(help="Names separated by commas, or none; see below.", rich_help_panel=_REPORTS)
    ] = ",".join(POINTS),
    neighbours: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of random training images among which neighbours are searched.",
            rich_help_panel=_REPORTS,
        ),
    ] = 10_000,
    vllm_python: Annotated[
        Path | None,
        metric.path(
            "Python interpreter of an environment with vLLM, which then decodes (docs/vllm.md).",
            panel=_REPORTS,
            metavar="PYTHON",
        ),
    ] = None,
    profile: Annotated[str | None, opt.option("profile")] = None,
    device: opt.Device = "auto",
    offline: opt.Offline = False,
    allow_remote: opt.AllowRemote = False,
    server_timeout: opt.ServerTimeout = 600.0,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Names separated by commas; see below. Default: paper,rules; of rexrank rexrank,findings,rules.",
            metavar="METRICS",
            show_default=False,
        ),
    ] = None,
    bootstrap: metric.Bootstrap = 500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap, of samples and of reference points.")] = 42,
    cache: metric.CacheFile = None,
    no_cache: metric.NoCache = False,
    skip_missing: metric.SkipMissing = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the content of the results folder.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Write and score the reports of a test set, as in the paper's table 2."""
    if dataset not in NAMES:
        raise typer.BadParameter(f"choose one of {', '.join(NAMES)}", param_hint="--dataset")
    if protocol not in ("paper", "fast"):
        raise typer.BadParameter("choose paper or fast", param_hint="--protocol")
    if batch_size is not None and protocol == "paper":
        raise typer.BadParameter("the paper's protocol writes one report at a time", param_hint="--batch-size")
    points = () if reference_points == "none" else tuple(metric.names(reference_points))
    if odd := [name for name in points if name not in POINTS]:
        raise typer.BadParameter(
            f"there is no {odd[0]!r}; choose from {', '.join(POINTS)}", param_hint="--reference-points"
        )
    sets = tuple(dict.fromkeys(map(InputSet.parse, inputs or ())))
    from llava_rad.benchmark.plan import Options, Plan
    from llava_rad.benchmark.results import results
    from llava_rad.benchmark.run import BenchmarkRun
    from llava_rad.benchmark.task import load
    from llava_rad.benchmark.writing import PROTOCOLS, Processes
    from llava_rad.outputs.files import held_folder
    from metrics.bootstrap import Bootstrap
    from metrics.cache import default_path
    from metrics.registry import checked_metrics

    settings = replace(
        common,
        metrics=checked_metrics(metric.names(_USUAL.get(dataset, _PAPER) if metrics is None else metrics)),
        device="cpu" if device == "auto" else device,
        options=asdict(own),
        language_model=metric.language_model,
    )
    models: dict[str, str | None] = dict(_named(model or [], "--model"))
    texts = {name: Path(source) for name, source in _named(predictions or [], "--predictions")}
    if not models and not texts:
        models = {"demonstration": None}
    if sets and not models:
        raise typer.BadParameter("a model is needed that writes from them", param_hint="--inputs")
    if twice := set(models) & set(texts) or {*models, *texts} & {*POINTS, "references"}:
        raise typer.BadParameter(f"{min(twice)!r} is the name of something else", param_hint="--model")
    chosen = PROTOCOLS[protocol]
    if models:
        warn_of_slow_type(chosen.dtype, device, "use --protocol paper")
    options = Options(
        output=output,
        models=models,
        predictions=texts,
        protocol=chosen if batch_size is None else replace(chosen, batch_size=batch_size),
        paper=PROTOCOLS["paper"],
        settings=settings,
        agreement=agreement_sample,
        points=points,
        bank_limit=neighbours,
        device=device,
        offline=offline,
        vllm=vllm_python,
        allow_remote=allow_remote,
        profile=profile,
        server_timeout=server_timeout,
        seed=seed,
        overwrite=overwrite,
        bootstrap=Bootstrap(bootstrap, seed),
        cache=None if no_cache else cache or default_path(),
        inputs=sets,
    )
    with Processes.from_environment() as processes:
        if processes.first:
            context.with_resource(held_folder(output))
        progress = bar if processes.first else _no_bar
        say = note if processes.first else _silent
        task = load(
            dataset, data, images=images, reports=reports, tables=tables, split=split, limit=limit, seed=seed,
            strata=metric.names(strata), groups=groups or (), progress=progress,
        )  # fmt: skip
        run = BenchmarkRun(Plan(task, options, progress), processes)
        try:
            with run.written() as prepared:
                if not processes.first:
                    return
                summary = results(run, prepared, say)
        except KeyboardInterrupt:
            say("interrupted; the same command continues the run")
            raise typer.Exit(130) from None
    sys.stdout.write(summary.to_text())
    note(f"results: {output}/index.html, summary.json, summary.md, summary.tex, per_sample.csv")
    absent = summary.scored.evaluation.not_computed
    if absent and not skip_missing:
        note(f"not computed: {', '.join(absent)} (--skip-missing to accept that)")
        raise typer.Exit(5)
    if task.missing or summary.made.unreadable:
        raise typer.Exit(3)


def _named(arguments: list[str], option: str) -> list[tuple[str, str]]:
    """Split ``NAME=VALUE``; without a name the last part of the value is used, with a number if it is taken."""
    found: dict[str, str] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or "/" in name:
            name, value = Path(argument.rpartition("#")[2]).name, argument
            if option == "--predictions":
                name = Path(argument).stem
        elif name in found:
            raise typer.BadParameter(f"two are called {name!r}", param_hint=option)
        called, number = name, 2
        while called in found:
            called, number = f"{name} ({number})", number + 1
        found[called] = value
    if any(not name or not value for name, value in found.items()):
        raise LlavaRadError(f"{option}: a name or a value is missing")
    return list(found.items())


def _no_bar(what: str, total: int) -> Callable[[int], None]:
    return lambda done: None


def _silent(message: str) -> None:
    pass
