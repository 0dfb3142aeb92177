"""``llava-rad manifest``: write the manifest of a public data set."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from encoder.datasets.generic import TABLE_FIELDS
from encoder.datasets.manifest import Row, counts, write_manifest
from encoder.datasets.masks import MaskFiles
from encoder.datasets.registry import DATASETS, DataSet
from encoder.datasets.splits import Shares, disjoint, shares_of
from encoder.errors import LlavaRadError
from llava_rad.commands import options as opt
from llava_rad.commands.console import note

EPILOG = "\n\n".join(
    (
        "DATASET is one of: " + "; ".join(f"{adapter.name} ({adapter.title})" for adapter in DATASETS.values()) + ".",
        "Missing images are left out and counted (exit code 3).",
        f"Fields of --column: {', '.join(TABLE_FIELDS)} (ignore and label are repeatable). Columns of 1, 0, -1, true "
        "and false are labels; those read and those ignored are listed on standard error.",
        "Masks published as run lengths, outlines or boxes are written as PNG files to the folder NAME-masks beside "
        "NAME.csv; existing ones are kept, unless --overwrite.",
        "A manifest holds file names and patient ids and is as confidential as the data set.",
    )
)


@dataclass(frozen=True)
class Summary:
    """Counts of a manifest and of the paper.

    Attributes:
        images: number written.
        subjects: number of known subjects.
        missing: number of images of the table that are not in the folder.
        views: images and subjects by view.
        splits: images by split; "" for none.
        masks: images with a mask, by structure.
        published: the paper's table D.1 and the same count of these images, or None.
    """

    images: int
    subjects: int
    missing: int
    views: dict[str, dict[str, int]]
    splits: dict[str, int]
    masks: dict[str, int]
    published: dict[str, Any] | None

    def to_text(self) -> str:
        """Format the counts as text."""
        lines = [f"{'view':<12}{'images':>10}{'subjects':>10}"]
        total = {"all": {"images": self.images, "subjects": self.subjects}}
        for view, count in (total | self.views).items():
            subjects = f"{count['subjects']:,}" if count["subjects"] else "unknown"
            lines.append(f"{view:<12}{count['images']:>10,}{subjects:>10}")
        if set(self.splits) != {""}:
            lines.append("splits: " + ", ".join(f"{split or 'none'} {n:,}" for split, n in sorted(self.splits.items())))
        if self.masks:
            lines.append("masks: " + ", ".join(f"{name} {number:,}" for name, number in self.masks.items()))
        if self.published is not None:
            paper, ours, remark = self.published["paper"], self.published["here"], self.published["note"]
            lines.append(
                f"table D.1 of the paper: {paper['images']:,} images, {paper['subjects']:,} subjects; here "
                f"{ours['images']:,} and {ours['subjects']:,}" + (f" ({remark})" if remark else "")
            )
        if self.missing:
            lines.append(f"not in the folder: {self.missing:,} images of the table")
        return "\n".join(lines) + "\n"


def command(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Name of the data set; see below.")],
    root: Annotated[Path, typer.Argument(metavar="FOLDER", help="Its top folder; for 'table' also the file.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The manifest, a CSV file.", metavar="CSV", show_default=False)
    ],
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="New split by subject in these percentages (train/val/test).",
            metavar="70/15/15",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the split and of drawn negatives.")] = 0,
    column: opt.Columns = None,
    overwrite: opt.Overwrite = False,
    format: Annotated[opt.Plain, typer.Option("--format", "-f", help="Format of the counts.")] = opt.Plain.text,
) -> None:
    """Write the manifest of a data set's images; print its counts and the paper's."""
    from llava_rad.outputs.files import check_output, held_output

    adapter = DATASETS.get(dataset)
    if adapter is None:
        raise typer.BadParameter(f"choose one of {', '.join(DATASETS)}", param_hint="DATASET")
    columns = opt.columns(column, TABLE_FIELDS if adapter.own else ())
    check_output(output, overwrite=overwrite)
    context.with_resource(held_output(output))
    shares = None if split is None else _shares(split)
    with MaskFiles(output.with_name(f"{output.stem}-masks"), redraw=overwrite) as masks:
        rows, missing = adapter.rows(root, masks, seed=seed, shares=shares, columns=columns, say=note)
    check_output(output, inputs=(row.path for row in rows) if output.exists() else (), overwrite=overwrite)
    try:
        disjoint(rows)
    except LlavaRadError as error:
        note(f"warning: {error}")
    write_manifest(rows, output, root=root if root.is_dir() else root.parent)
    summary = summarise(adapter, rows, missing)
    sys.stdout.write(json.dumps(asdict(summary), indent=2) + "\n" if format is opt.Plain.json else summary.to_text())
    if missing:
        note(f"{missing:,} of {missing + len(rows):,} images are not in the folder and were left out")
        raise typer.Exit(3)


def _shares(text: str) -> Shares:
    try:
        return shares_of(text)
    except LlavaRadError as error:
        raise typer.BadParameter(str(error), param_hint="--split") from None


def summarise(adapter: DataSet, rows: list[Row], missing: int) -> Summary:
    """Count rows of one data set."""
    (by_view,) = counts(rows).values()
    total = by_view.pop("all")
    published = None
    if adapter.published is not None:
        published = {
            "paper": adapter.published.count._asdict(),
            "here": adapter.published.of(rows)._asdict(),
            "note": adapter.published.note,
        }
    return Summary(
        images=total.images,
        subjects=total.subjects,
        missing=missing,
        views={view: count._asdict() for view, count in by_view.items()},
        splits=dict(Counter(row.split for row in rows)),
        masks=dict(sorted(Counter(name for row in rows for name in row.masks).items())),
        published=published,
    )
