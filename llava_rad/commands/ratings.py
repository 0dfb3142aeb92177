"""``llava-rad evaluate --ratings``: agreement of metrics with ratings of reports by people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from llava_rad.commands import metric_options as metric
from llava_rad.commands.console import bar, note
from metrics.base import InputError, Settings

FIGURES: Final = (".png", ".svg", ".pdf")


def compare_with_ratings(
    path: Path,
    metrics: Sequence[str],
    settings: Settings,
    bootstrap: tuple[int, int],
    form: str,
    output: Path | None,
    figure: Path | None,
    *,
    overwrite: bool,
    skip_missing: bool,
) -> None:
    """Write the agreement of metrics with ratings.

    Args:
        path: see :func:`llava_rad.benchmark.ratings.read_ratings`.
        metrics: names of metrics.
        settings: options of the evaluation.
        bootstrap: samples and seed.
        form: text, json, markdown or latex.
        output: file for the tables; None is standard output.
        figure: file for the figure, or None.
        overwrite: existing files may be replaced.
        skip_missing: a metric that could not be computed is no failure.

    Raises:
        InputError: if the ratings cannot be read, or a metric is unknown.
        typer.Exit: with 5 if a metric could not be computed.
    """
    from llava_rad.benchmark.ratings import read_ratings
    from llava_rad.outputs.files import check_output, write_whole
    from metrics import agreement
    from metrics.bootstrap import Bootstrap
    from metrics.registry import checked_metrics, headline
    from metrics.suite import evaluate

    chosen = checked_metrics(metrics)
    for one in filter(None, (output, figure)):
        check_output(one, inputs=[path], overwrite=overwrite)
    if figure is not None and figure.suffix.lower() not in FIGURES:
        raise InputError(f"--figure must end in {' or '.join(FIGURES)}")
    read = read_ratings(path)
    pairs, studies = read.pairs, read.pairs.patients
    note(f"{path.name}: {len(pairs.ids):,} rated reports of {len(set(studies)):,} studies, form {read.form}")
    drawn = Bootstrap(*bootstrap)
    found = evaluate({path.stem: pairs}, replace(settings, metrics=chosen), bootstrap=drawn, report=bar, say=note)
    table: dict[str, dict[str, agreement.Agreement]] = {}
    not_computed = {name: why.reason for name, why in found.not_computed.items()}
    for rating, values in read.ratings.items():
        of_metrics = {}
        for name, scores in found.models[0].scores.items():
            score = headline(name) if headline(name) in scores.per_sample else next(iter(scores.per_sample))
            column = -scores.per_sample[score] if score in scores.costs else scores.per_sample[score]
            if (column != column).any():  # NaN
                not_computed[name] = "it is not defined for all of these reports"
            else:
                of_metrics[score] = agreement.agreement(column, values, studies, drawn)
        table[rating] = of_metrics
    rated = agreement.Rated(
        len(pairs.ids),
        len(set(studies)),
        table,
        not_computed,
        found.signatures,
        drawn,
    )
    if figure is not None:
        from metrics.plots import agreement_figure

        write_whole(figure, agreement_figure(rated, figure.suffix.lower()[1:]), overwrite=overwrite)
    write = {
        "text": agreement.to_text,
        "json": agreement.to_json,
        "markdown": agreement.to_markdown,
        "latex": agreement.to_latex,
    }[form]
    metric.give(write(rated), output, overwrite=overwrite)
    if not skip_missing:
        metric.end_with_missing(rated.not_computed)
