"""``llava-rad evaluate``: scores of generated reports against references."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encoder.datasets.values import SPLITS
from llava_rad.commands import metric_options as metric
from llava_rad.commands import options as opt
from llava_rad.commands.console import bar, note
from llava_rad.commands.ratings import FIGURES, compare_with_ratings
from metrics.base import InputError, Settings, is_empty

if TYPE_CHECKING:
    from llava_rad.benchmark.tables import Table
    from metrics.suite import Pairs

EPILOG = "\n\n".join(
    (
        metric.LISTED,
        "Exit codes: 0 done; 1 failed; 2 wrong usage or tables that do not fit together; 5 some metric could not be "
        "computed (it is null in JSON; --skip-missing makes it 0); 130 interrupted.",
        "Scores depend on the choices in the signatures of every output: quote them.",
    )
)
_TABLES, _MODELS, _OUTPUT = "Tables", metric.MODELS, "Output"


class Form(StrEnum):
    """Form of the scores."""

    text = "text"
    json = "json"
    markdown = "markdown"
    latex = "latex"


@opt.expand
def command(
    context: typer.Context,
    predictions: Annotated[
        Path | None,
        typer.Argument(
            metavar="PREDICTIONS",
            help="Generated reports: .jsonl, .json or .csv, also of 'llava-rad generate -f jsonl'.",
            show_default=False,
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Argument(metavar="REFERENCES", help="Reference reports with the same ids.", show_default=False),
    ] = None,
    *,
    common: Annotated[
        Settings, opt.Fields("clean", "min_group", "device", "precision", "batch_size", "allow_download")
    ],
    own: Annotated[metric.MetricOptions, opt.Fields()],
    metrics: metric.Metrics = "paper",
    strata: metric.Strata = "",
    compare: Annotated[
        list[Path] | None, metric.path("Other predictions of the same ids, for paired differences.", panel=_TABLES)
    ] = None,
    id_field: Annotated[
        list[str] | None,
        metric.path(
            "Field of the ids; dots lead into nested objects. Given twice: of the predictions, then of the references.",
            panel=_TABLES,
            metavar="NAME",
        ),
    ] = None,
    prediction_field: Annotated[
        str | None, metric.path("Field of the predictions' text.", panel=_TABLES, metavar="NAME")
    ] = None,
    reference_field: Annotated[
        str | None, metric.path("Field of the references' text.", panel=_TABLES, metavar="NAME")
    ] = None,
    patient: Annotated[
        str | None,
        metric.path(
            "Column of the patients (default: a usual name, such as subject_id).", panel=_TABLES, metavar="COLUMN"
        ),
    ] = None,
    split: Annotated[
        str, metric.path("Score this split of the references only: train, val, test.", panel=_TABLES, metavar="NAME")
    ] = "",
    prediction_annotations: Annotated[
        Path | None, metric.path("Labels and graphs of the predictions, instead of weights.", panel=_TABLES)
    ] = None,
    reference_annotations: Annotated[
        Path | None, metric.path("Labels and graphs of the references, instead of weights.", panel=_TABLES)
    ] = None,
    ratings: Annotated[
        Path | None,
        metric.path(
            "Reports rated by people, instead of PREDICTIONS and REFERENCES: RadPref's JSON, the folder of ReXVal, or "
            "a table (study, reference, candidate, rating). Gives the agreement of each metric with the ratings.",
            panel=_TABLES,
        ),
    ] = None,
    bootstrap: metric.Bootstrap = 500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 42,
    cache: metric.CacheFile = None,
    no_cache: metric.NoCache = False,
    skip_missing: metric.SkipMissing = False,
    format: Annotated[Form, typer.Option("--format", "-f", help="Form of the scores.", rich_help_panel=_OUTPUT)] = (
        Form.text
    ),
    output: Annotated[Path | None, metric.path("File for the scores.", "--output", "-o", panel=_OUTPUT)] = None,
    per_sample: Annotated[Path | None, metric.path("Values of each report: .csv or .parquet.", panel=_OUTPUT)] = None,
    figure: Annotated[Path | None, metric.path("Scores as bars: .png, .svg or .pdf.", panel=_OUTPUT)] = None,
    explain: Annotated[
        Path | None,
        metric.path(
            "What the metric findings saw in each report: .txt or .jsonl, with words of the reports.", panel=_OUTPUT
        ),
    ] = None,
    save_annotations: Annotated[
        Path | None,
        metric.path("Folder for labels and graphs (they hold words of reports).", panel=_OUTPUT, metavar="DIR"),
    ] = None,
    overwrite: opt.Overwrite = False,
) -> None:
    """Score generated reports against references, with confidence intervals."""
    if ratings is not None:
        if any(one is not None for one in (predictions, references, compare, per_sample, explain, save_annotations)):
            raise InputError("--ratings goes with --metrics, --output, --format and --figure only")
        settings = replace(common, options=asdict(own), language_model=metric.language_model)
        compare_with_ratings(
            ratings,
            metric.names(metrics),
            settings,
            (bootstrap, seed),
            format.value,
            output,
            figure,
            overwrite=overwrite,
            skip_missing=skip_missing,
        )
        return
    if predictions is None or references is None:
        raise InputError("PREDICTIONS and REFERENCES are needed, or --ratings")
    from llava_rad.benchmark.tables import join, read_annotations, read_table
    from llava_rad.outputs.files import check_output, held_output, write_whole
    from metrics import tables
    from metrics.bootstrap import Bootstrap
    from metrics.cache import Cache, default_path
    from metrics.comparisons import without_prior
    from metrics.registry import PRIOR_CLAIMS, checked_metrics
    from metrics.suite import evaluate

    chosen = checked_metrics(metric.names(metrics))
    inputs = [predictions, references, *(compare or ())]
    files = {"output": output, "per-sample": per_sample, "figure": figure, "explain": explain}
    saved = [save_annotations / f"{side}.jsonl" for side in ("predictions", "references")] if save_annotations else []
    if save_annotations is not None:
        with suppress(OSError):  # the check of its files has the words
            save_annotations.mkdir(exist_ok=True)
    for path in (outputs := [*filter(None, files.values()), *saved]):
        if outputs.count(path) > 1:
            raise InputError(f"two outputs are called {path.name}")
        check_output(path, inputs=inputs, overwrite=overwrite)
        context.with_resource(held_output(path))
    _one_of(per_sample, (".csv", ".parquet"), "--per-sample")
    _one_of(figure, FIGURES, "--figure")
    _one_of(explain, (".txt", ".jsonl"), "--explain")
    if explain is not None and "findings" not in chosen:
        raise InputError("--explain is of the metric findings, which --metrics does not name")

    id_fields: tuple[str | None, ...] = tuple(id_field or ()) or (None,)
    if len(id_fields) > 2:
        raise InputError("--id-field is given once, or twice: of the predictions, then of the references")
    if split not in SPLITS:
        raise InputError("--split is one of train, val, test")
    truth = read_table(references, "reference", id_field=id_fields[-1], text_field=reference_field, split=split)
    _read(references, truth)
    columns = metric.names(strata)
    models: dict[str, Pairs] = {}
    given: dict[str, dict[tuple[str, str], object]] = {}
    paths = (predictions, *(compare or ()))
    found = [read_table(path, "prediction", id_field=id_fields[0], text_field=prediction_field) for path in paths]
    for path, table in zip(paths, found, strict=True):
        name = path.stem if path.stem not in models else f"{path.stem} ({len(models) + 1})"
        models[name] = join(table, truth, columns, patient=patient, models=found)
        _read(path, table)
    first = next(iter(models.values()))
    people = next((pairs.patients for pairs in models.values() if any(pairs.patients)), [])
    if alone := people.count(""):
        note(f"warning: {alone:,} of {len(people):,} reports name no patient; each counts as a patient of its own")
    reports = {name: pairs.candidates for name, pairs in models.items()} | {references.name: first.references}
    for name, texts in reports.items():
        if empty := sum(map(is_empty, texts)):
            note(f"{name}: {empty:,} of {len(texts):,} reports are empty; they score 0 in every metric")
    for side, file in (("prediction", prediction_annotations), ("reference", reference_annotations)):
        if file is not None:
            from metrics.annotations import read

            annotated = read(read_annotations(file), first.ids, name=file.name, id_field=truth.id_field)
            for kind, values in annotated.items():
                given.setdefault(kind, {}).update({(side, key): value for key, value in values.items()})

    if any(pairs.context.get("prior") for pairs in models.values()):
        chosen = tuple(dict.fromkeys((*chosen, PRIOR_CLAIMS)))
    settings = replace(common, metrics=chosen, options=asdict(own), language_model=metric.language_model)
    kept = None if no_cache else Cache(cache or default_path(), say=note)
    try:
        result = evaluate(
            models, settings, bootstrap=Bootstrap(bootstrap, seed), cache=kept, given=given, report=bar, say=note
        )
    finally:
        if kept is not None:
            kept.close()

    for one in result.models:
        if PRIOR_CLAIMS in one.scores and (number := without_prior(scores := one.scores[PRIOR_CLAIMS])):
            share = f"{100 * scores['prior_claims']:.1f} %"
            note(f"{one.name}: of {number:,} reports without a prior image {share} compare with an earlier study")

    if per_sample is not None:
        as_csv = per_sample.suffix.lower() == ".csv"
        data = tables.by_report_csv(result) if as_csv else tables.by_report_parquet(result)
        write_whole(per_sample, data, overwrite=overwrite)
    if figure is not None:
        from metrics.plots import figure as draw

        write_whole(figure, draw(result, figure.suffix.lower()[1:]), overwrite=overwrite)
    if explain is not None:
        write_whole(
            explain, _explained(first, settings, as_json=explain.suffix.lower() == ".jsonl"), overwrite=overwrite
        )
    if saved and not result.annotations:
        note("warning: the annotations hold ids only: none of the computed metrics labels reports with a model")
    for number, path in enumerate(saved):
        from metrics.annotations import lines

        start = number * len(first.ids)
        of_side = {kind: values[start : start + len(first.ids)] for kind, values in result.annotations.items()}
        write_whole(path, "".join(lines(first.ids, of_side)).encode(), overwrite=overwrite)
    write = {
        Form.text: tables.to_text,
        Form.json: tables.to_json,
        Form.markdown: tables.to_markdown,
        Form.latex: tables.to_latex,
    }[format]
    metric.give(write(result), output, overwrite=overwrite)
    if not skip_missing:
        metric.end_with_missing(result.not_computed)


def _read(path: Path, table: Table) -> None:
    note(f"{path.name}: {len(table.texts):,} reports, text from {table.text_field}, ids from {table.id_field}")
    if table.sectioned:
        note(f"{path.name}: of {table.sectioned:,} reports with headings only the Findings are scored")


def _explained(pairs: Pairs, settings: Settings, *, as_json: bool) -> bytes:
    """Return what the finding metric saw in the first model's reports."""
    from metrics.findings.explain import lines, to_text
    from metrics.findings.metric import Findings, compare_all

    contexts = Findings("findings", settings).contexts(pairs.context, len(pairs.ids))
    compared = compare_all(pairs.candidates, pairs.references, contexts)
    if as_json:
        return "".join(lines(pairs.ids, compared)).encode()
    return "\n".join(to_text(one, f"report {number}: ") for number, one in enumerate(compared, 1)).encode()


def _one_of(path: Path | None, ends: tuple[str, ...], option: str) -> None:
    if path is not None and path.suffix.lower() not in ends:
        raise InputError(f"{option} must end in {' or '.join(ends)}")
