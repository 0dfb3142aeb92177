"""``llava-rad reports``: from a data set's own layout to the table of image-report pairs that training reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_rad.commands import options as opt
from llava_rad.commands.console import note

if TYPE_CHECKING:
    from llava_rad.reports.pairs import Pair
    from llava_rad.reports.selection import Read

DATASETS = {
    "mimic-cxr": "MIMIC-CXR, DICOM",
    "mimic-cxr-jpg": "MIMIC-CXR-JPG; reports are in MIMIC-CXR: --reports",
    "iu-xray": "IU-Xray, Kaggle's CSV files or Open-i's XML",
    "table": "any CSV or JSON lines with columns for image and text",
}
EPILOG = "\n\n".join(
    (
        "DATASET is one of: " + "; ".join(f"{name} ({title})" for name, title in DATASETS.items()) + ".",
        "Images of the data set's tables that are not in the folder are left out and counted (exit code 3).",
        "The table holds reports and patient ids of the data set: it is as confidential as they are.",
    )
)


@dataclass(frozen=True)
class Summary:
    """What was written.

    Attributes:
        steps: images left after each filter.
        splits: images, subjects and the paper's images by split.
        missing: images whose file is not there.
    """

    steps: dict[str, int]
    splits: dict[str, dict[str, int | None]]
    missing: int

    def to_text(self) -> str:
        """Lines for a person."""
        lines = [f"{number:>10,}  {name}" for name, number in self.steps.items()]
        lines.append(f"{'split':<8}{'images':>10}{'subjects':>10}{'paper':>10}")
        for split, count in self.splits.items():
            paper = f"{count['paper']:,}" if count["paper"] else ""
            images, subjects = (f"{count[name]:,}" for name in ("images", "subjects"))
            lines.append(f"{split or 'none':<8}{images:>10}{subjects:>10}{paper:>10}".rstrip())
        return "\n".join(lines) + "\n"


def command(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Which data set; see below.")],
    root: Annotated[Path, typer.Argument(metavar="FOLDER", help="Its top folder; for table, the table itself.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The table of pairs, .jsonl or .csv.", metavar="FILE", show_default=False),
    ],
    reports: Annotated[
        Path | None,
        typer.Option(
            help="MIMIC-CXR: folder of the report files, or mimic_cxr_sectioned.csv. Default: looked for in FOLDER.",
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    tables: Annotated[
        Path | None,
        typer.Option(
            help="MIMIC-CXR: folder of the tables metadata, split and chexpert. Default: FOLDER.",
            metavar="FOLDER",
            show_default=False,
        ),
    ] = None,
    val_share: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.9,
            help="MIMIC-CXR: draw the split val anew by subject, this share of train and val (default: the paper's, "
            "0.047). 0 keeps the official one.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of that draw.")] = 0,
    split: Annotated[
        str | None,
        typer.Option(help="Write this split only: train, val or test.", metavar="SPLIT", show_default=False),
    ] = None,
    sha256: Annotated[
        bool,
        typer.Option(
            "--sha256",
            help="Name images by the SHA-256 of their files, as 'generate -f jsonl' does, so that 'evaluate' can join.",
        ),
    ] = False,
    overwrite: opt.Overwrite = False,
    format: Annotated[opt.Plain, typer.Option("--format", "-f", help="Form of the counts.")] = opt.Plain.text,
) -> None:
    """Write the table of a data set's frontal images with their Findings sections, and print what was left out."""
    from encoder.errors import LlavaRadError
    from encoder.manifest import disjoint
    from llava_rad.outputs.files import check_output
    from llava_rad.reports.pairs import write_pairs
    from llava_rad.reports.selection import of_split, redraw_validation

    if dataset not in DATASETS:
        raise typer.BadParameter(f"choose one of {', '.join(DATASETS)}", param_hint="DATASET")
    mimic = dataset.startswith("mimic")
    if not mimic and (reports is not None or tables is not None or val_share is not None):
        raise typer.BadParameter("these options are MIMIC-CXR's", param_hint="--reports, --tables, --val-share")
    if split not in (None, "train", "val", "test"):
        raise typer.BadParameter("choose train, val or test", param_hint="--split")
    if output.suffix.lower() not in (".jsonl", ".csv"):
        raise typer.BadParameter("the table must end in .jsonl or .csv", param_hint="--output")
    check_output(output, inputs=[root] if root.is_file() else [], overwrite=overwrite)
    found, paper = _read(dataset, root, reports, tables)
    if mimic and val_share != 0:
        from llava_rad.reports.mimic_cxr import VAL_SHARE

        found.pairs = redraw_validation(found.pairs, VAL_SHARE if val_share is None else val_share, seed)
    disjoint(pair.row for pair in found.pairs)
    summary = _summarise(found, paper)
    pairs = found.pairs if split is None else of_split(found.pairs, split)
    if not pairs:
        raise LlavaRadError("no image with Findings is left to write")
    write_pairs(_hashed(pairs) if sha256 else pairs, output)
    text = json.dumps(summary.__dict__, indent=2) + "\n" if format is opt.Plain.json else summary.to_text()
    sys.stdout.write(text)
    sys.stdout.flush()
    _check(dataset, found, summary)
    if found.missing:
        note(f"{found.missing:,} images of the tables are not in the folder and were left out")
        raise typer.Exit(3)


def _read(dataset: str, root: Path, reports: Path | None, tables: Path | None) -> tuple[Read, dict[str, int]]:
    """The pairs, and the paper's numbers by split."""
    from llava_rad.reports import iu_xray, mimic_cxr
    from llava_rad.reports.pairs import read_pairs
    from llava_rad.reports.selection import Read

    if dataset == "table":
        pairs = read_pairs(root)
        there = [pair for pair in pairs if pair.row.path.is_file()]
        steps = {"images in the table": len(pairs), "image file there": len(there)}
        return Read(there, steps, len(pairs) - len(there)), {}
    with _bar("images" if dataset == "iu-xray" else "reports") as advance:
        if dataset == "iu-xray":
            return iu_xray.read(root, advance=advance), {"test": iu_xray.PAPER}
        jpeg = dataset == "mimic-cxr-jpg"
        return mimic_cxr.read(root, jpeg=jpeg, reports=reports, tables=tables, advance=advance), mimic_cxr.PAPER


class _bar:
    """tqdm's bar on stderr where that is a terminal."""

    def __init__(self, name: str) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(desc=name, disable=None, file=sys.stderr)

    def __enter__(self) -> Callable[[int], None]:
        advance: Callable[[int], None] = self._bar.update
        return advance

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _summarise(found: Read, paper: dict[str, int]) -> Summary:
    splits: dict[str, dict[str, int | None]] = {}
    for split in ("train", "val", "test", ""):
        rows = [pair.row for pair in found.pairs if pair.row.split == split]
        if rows or split in paper:
            subjects = len({(row.dataset, row.subject) for row in rows if row.subject})
            splits[split] = {"images": len(rows), "subjects": subjects, "paper": paper.get(split)}
    return Summary(found.steps, splits, found.missing)


def _hashed(pairs: list[Pair]) -> list[Pair]:
    from encoder.errors import LlavaRadError
    from encoder.pretraining.shards import sha256_of

    hashed = [replace(pair, row=replace(pair.row, image=sha256_of(pair.row.path))) for pair in pairs]
    if not all(pair.row.image for pair in hashed):
        raise LlavaRadError("an image file cannot be read")
    if len({pair.row.image for pair in hashed}) < len(hashed):
        raise LlavaRadError("two images are the same file, so that --sha256 gives no names of their own")
    return hashed


def _check(dataset: str, found: Read, summary: Summary) -> None:
    """Where the whole public data set is there, the published counts must come out.

    Raises:
        LlavaRadError: they do not.
    """
    from encoder.errors import LlavaRadError
    from llava_rad.reports import iu_xray

    if not found.complete or found.missing:
        return
    test = summary.splits["test"]
    if dataset == "iu-xray" and (found.steps["with Findings"], test["images"]) != (iu_xray.BEFORE, iu_xray.PAPER):
        raise LlavaRadError(
            f"IU-Xray is complete, but {found.steps['with Findings']:,} frontal images have findings and "
            f"{test['images']:,} are left, not {iu_xray.BEFORE:,} and {iu_xray.PAPER:,} (the table is written)"
        )
    if dataset.startswith("mimic") and test["images"] != test["paper"]:
        raise LlavaRadError(
            f"MIMIC-CXR is complete, but the official test split has {test['images']:,} pairs, the paper's "
            f"{test['paper']:,} (the table is written)",
            hint="are these other reports than those of MIT-LCP's section rules?",
        )
