"""``llava-rad reports``: write the table of the studies of a public data set."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from encoder.errors import LlavaRadError
from encoder.files import sha256_of
from llava_rad.commands import options as opt
from llava_rad.commands.console import bar, note
from llava_rad.reports.comparisons import comparing, without_comparisons
from llava_rad.reports.pairs import CONTEXT, TABLE_FIELDS, Pair, write_pairs
from llava_rad.reports.registry import DATASETS, Found, PairSet, in_threads, places
from llava_rad.reports.sections import names_views_only

EPILOG = "\n\n".join(
    (
        "DATASET is one of: " + "; ".join(f"{one.name} ({one.title})" for one in DATASETS.values()) + ".",
        "Missing images are left out and counted (exit code 3). If the data set is complete and its numbers are not "
        "the paper's, the exit code is 1.",
        f"Fields of --column: {', '.join(TABLE_FIELDS)} (ignore is repeatable). Columns that are read and that are "
        "ignored are listed on standard error.",
        "The table holds report texts, file names and patient ids and is as confidential as the data set.",
    )
)
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Summary:
    """Counts of the pairs of a data set, and the paper's.

    Attributes:
        dataset: its name.
        source: origin of the texts.
        steps: remaining images by filter.
        missing: images dropped because their file does not exist.
        splits: images and known subjects by split; "" for none.
        paper: pairs by split in the paper.
        only_views: pairs whose Findings only name views.
        context: pairs with each further input, such as ``lateral`` and ``indication``.
        comparing: pairs without a prior image whose Findings compare with an earlier study.
        shortened: pairs that lost such sentences (``--no-comparisons``).
        written: pairs in the written table.
    """

    dataset: str
    source: str
    steps: dict[str, int]
    missing: int
    splits: dict[str, dict[str, int]]
    paper: dict[str, int]
    only_views: int
    context: dict[str, int]
    comparing: int
    shortened: int
    written: int

    def to_text(self) -> str:
        """Format the counts as text."""
        lines = [f"{'images':<40}{'left':>10}"]
        lines += [f"{name:<40}{left:>10,}" for name, left in self.steps.items()]
        paper = f"{'paper':>10}" if self.paper else ""
        lines += ["", f"{'split':<20}{'images':>10}{'subjects':>10}{paper}"]
        for split, count in self.splits.items():
            known = f"{count['subjects']:,}" if count["subjects"] else "unknown"
            published = f"{self.paper[split]:>10,}" if split in self.paper else ""
            lines.append(f"{split or 'none':<20}{count['images']:>10,}{known:>10}{published}")
        lines += ["", f"texts: {self.source}"]
        if self.context:
            lines += ["further inputs: " + ", ".join(f"{name} {number:,}" for name, number in self.context.items())]
        if self.comparing:
            lines.append(f"Findings that compare with an earlier study, without a prior image: {self.comparing:,}")
        if self.shortened:
            lines.append(f"Findings from which such sentences were left out: {self.shortened:,}")
        if self.only_views:
            lines.append(f"Findings that only name views (kept): {self.only_views:,}")
        if self.written != sum(count["images"] for count in self.splits.values()):
            lines.append(f"written: {self.written:,} pairs")
        return "\n".join(lines) + "\n"


def command(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Name of the data set; see below.")],
    root: Annotated[Path, typer.Argument(metavar="FOLDER", help="Its top folder; for 'table' the file.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The table: .jsonl, or .csv.", metavar="FILE", show_default=False),
    ],
    reports: Annotated[
        Path | None,
        typer.Option(
            help="Folder of report files, mimic_cxr_sectioned.csv or indiana_reports.csv. Default: near the images.",
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    tables: Annotated[
        Path | None,
        typer.Option(
            "--tables",
            "--metadata",
            help="Folder of the tables of images and splits. Default: FOLDER.",
            metavar="FOLDER",
            show_default=False,
        ),
    ] = None,
    val_share: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.99,
            help="Redraw this share of train and val as val, by subject. Default: 0.0470 for MIMIC-CXR (as in the "
            "paper), else 0, which keeps all splits.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the validation split.")] = 0,
    splits: Annotated[
        list[str] | None,
        typer.Option(
            "--split", help="Write the pairs of this split only (train, val, test; repeatable).", show_default=False
        ),
    ] = None,
    unknown_views: Annotated[
        bool,
        typer.Option(
            "--unknown-views",
            help="Keep the rows of 'table' whose stated view is not known, or that name several views.",
        ),
    ] = False,
    no_comparisons: Annotated[
        bool,
        typer.Option(
            "--no-comparisons",
            help="Leave out the sentences that compare with an earlier study where the pair has no prior image. "
            "The paper keeps them.",
        ),
    ] = False,
    column: opt.Columns = None,
    sha256: Annotated[
        bool,
        typer.Option(
            "--sha256",
            help="Use the SHA-256 of the image files as ids, like 'llava-rad generate -f jsonl'.",
        ),
    ] = False,
    overwrite: opt.Overwrite = False,
    format: Annotated[opt.Plain, typer.Option("--format", "-f", help="Format of the counts.")] = opt.Plain.text,
) -> None:
    """Write the table of a data set's images and their Findings; print its counts and the paper's."""
    from llava_rad.outputs.files import check_output, held_output

    adapter = DATASETS.get(dataset)
    if adapter is None:
        raise typer.BadParameter(f"choose one of {', '.join(DATASETS)}", param_hint="DATASET")
    if output.suffix.lower() not in (".jsonl", ".csv"):
        raise typer.BadParameter("the table's name ends in .jsonl or .csv", param_hint="--output")
    if set(splits or ()) - {*_SPLITS}:
        raise typer.BadParameter(f"choose one of {', '.join(_SPLITS)}", param_hint="--split")
    columns = opt.columns(column, TABLE_FIELDS if dataset == "table" else ())
    check_output(output, overwrite=overwrite)
    context.with_resource(held_output(output))
    where = replace(places(root, reports, tables), unknown_views=unknown_views, columns=columns, say=note)
    found = adapter.find(where, val_share=val_share, seed=seed, progress=bar)
    if output.exists():
        check_output(output, inputs=(*found.files, *(pair.row.path for pair in found.pairs)), overwrite=overwrite)
    shortened = 0
    if no_comparisons:
        found, shortened = _without_comparisons(found)
    pairs = [pair for pair in found.pairs if not splits or pair.row.split in splits]
    if not pairs:
        raise LlavaRadError("there is no pair of the split that is to be written")
    if sha256:
        pairs = by_content(pairs)
    write_pairs(pairs, output)
    summary = summarise(adapter, found, len(pairs), shortened)
    sys.stdout.write(json.dumps(asdict(summary), indent=2) + "\n" if format is opt.Plain.json else summary.to_text())
    if fault := adapter.fault(found):
        raise LlavaRadError(f"{adapter.title} is complete, but there are {fault}")
    if found.missing:
        frontal = found.missing + found.steps["image file there"]
        note(f"{found.missing:,} of {frontal:,} frontal images are not in the folder and were left out")
        raise typer.Exit(3)


def _without_comparisons(found: Found) -> tuple[Found, int]:
    """Leave out the sentences that compare from pairs without a prior, and the pairs of which nothing is left.

    Returns:
        The pairs, and the number of those that were changed or left out.
    """
    kept: list[Pair] = []
    changed = 0
    for pair in found.pairs:
        findings = pair.findings if pair.context.prior else without_comparisons(pair.findings)
        changed += findings != pair.findings
        if findings:
            kept.append(replace(pair, findings=findings))
    return replace(found, pairs=kept, whole=False), changed


def by_content(pairs: list[Pair]) -> list[Pair]:
    """Replace the ids of pairs by the SHA-256 of their image files; of files with equal bytes the first stays.

    Raises:
        LlavaRadError: if an image cannot be read.
    """
    digests = in_threads(_sha256, pairs, bar("SHA-256", len(pairs)))
    first: dict[str, Pair] = {}
    for pair, digest in zip(pairs, digests, strict=True):
        first.setdefault(digest, replace(pair, row=replace(pair.row, image=digest)))
    if len(first) != len(pairs):
        note(f"{len(pairs) - len(first):,} images have the bytes of an earlier one and were left out")
    return list(first.values())


def summarise(adapter: PairSet, found: Found, written: int, shortened: int = 0) -> Summary:
    """Count the pairs of a data set."""
    pairs = found.pairs
    splits: dict[str, dict[str, Any]] = {}
    for name in (*_SPLITS, ""):
        rows = [pair.row for pair in pairs if pair.row.split == name]
        if rows or name in adapter.published:
            subjects = {(row.dataset, row.subject) for row in rows if row.subject}
            splits[name] = {"images": len(rows), "subjects": len(subjects)}
    return Summary(
        dataset=adapter.name,
        source=found.source,
        steps=found.steps,
        missing=found.missing,
        splits=splits,
        paper=adapter.published,
        only_views=sum(names_views_only(pair.findings) for pair in pairs),
        context={name: number for name in CONTEXT if (number := sum(name in pair.context.given for pair in pairs))},
        comparing=sum(pair.context.prior is None and bool(comparing(pair.findings)) for pair in pairs),
        shortened=shortened,
        written=written,
    )


def _sha256(pair: Pair) -> str:
    try:
        return sha256_of(pair.row.path)
    except OSError:
        raise LlavaRadError(f"the image of row {pair.row.number} cannot be read") from None
