"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """Form of the reports."""

    text = "text"
    json = "json"
    jsonl = "jsonl"
    sr = "sr"
    fhir = "fhir"


class Plain(StrEnum):
    """Form of an answer about a file or this installation."""

    text = "text"
    json = "json"


class DType(StrEnum):
    """Floating-point type of the weights."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Precision(StrEnum):
    """How a report model's weights are kept."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    eight = "8bit"
    four = "4bit"


_MODEL, _INPUT, _DECODING, _OUTPUT = "Model", "Input", "Decoding", "Output"

Model = Annotated[
    str | None,
    typer.Option(
        help="Checkpoint: a folder, or a hub repository owner/name. Default: the embedded demonstration model.",
        metavar="DIR-OR-HUB-ID",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(help="Branch, tag or commit of a hub repository.", show_default=False, rich_help_panel=_MODEL),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Never ask the hub (as HF_HUB_OFFLINE=1).", rich_help_panel=_MODEL)
]
Device = Annotated[
    str, typer.Option(help="auto (CUDA where there is one), cpu, cuda, cuda:1, mps.", rich_help_panel=_MODEL)
]
Type = Annotated[
    Precision,
    typer.Option(
        "--dtype",
        help="auto (bfloat16 on CUDA, else float32), float32, bfloat16, float16; 8bit, 4bit: the language model's "
        "layers in so few bits (needs bitsandbytes).",
        metavar="TYPE",
        rich_help_panel=_MODEL,
    ),
]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Images at a time.", rich_help_panel=_MODEL)]

Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Read images that are refused as no frontal chest radiograph (lateral, other body part, for processing).",
        rich_help_panel=_INPUT,
    ),
]
Frame = Annotated[
    int | None,
    typer.Option(
        min=1, help="Frame of a multi-frame file, counted from 1.", show_default=False, rich_help_panel=_INPUT
    ),
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Look into subfolders too.", rich_help_panel=_INPUT)]

_STUDY = "Study (of models whose prompt has a place for it)"
Lateral = Annotated[
    Path | None,
    typer.Option(help="Lateral image of the same study.", metavar="FILE", show_default=False, rich_help_panel=_STUDY),
]
Prior = Annotated[
    Path | None,
    typer.Option(help="Frontal image of an earlier study.", metavar="FILE", show_default=False, rich_help_panel=_STUDY),
]
PriorReport = Annotated[
    Path | None,
    typer.Option(
        help="Text file with the earlier study's findings.", metavar="FILE", show_default=False, rich_help_panel=_STUDY
    ),
]
Indication = Annotated[
    str | None, typer.Option(help="Why the images were taken.", show_default=False, rich_help_panel=_STUDY)
]
Technique = Annotated[str | None, typer.Option(help="How they were taken.", show_default=False, rich_help_panel=_STUDY)]
Comparison = Annotated[
    str | None, typer.Option(help="What they are compared with.", show_default=False, rich_help_panel=_STUDY)
]
Grounded = Annotated[
    bool,
    typer.Option(
        "--grounded", help="Ask for boxes: in json and jsonl each finding has its own.", rich_help_panel=_STUDY
    ),
]

Tokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        min=1,
        help="Longest report. Default: the checkpoint's own, 150.",
        show_default=False,
        rich_help_panel=_DECODING,
    ),
]
Beams = Annotated[
    int | None,
    typer.Option(
        "--num-beams",
        min=1,
        help="Beam search. Default: the checkpoint's own, 1 (greedy).",
        show_default=False,
        rich_help_panel=_DECODING,
    ),
]
Temperature = Annotated[
    float, typer.Option(min=0.0, help="0 takes the likeliest token, above 0 samples.", rich_help_panel=_DECODING)
]
Seed = Annotated[int, typer.Option(help="Of the sampling.", rich_help_panel=_DECODING)]
Prompt = Annotated[
    str | None,
    typer.Option(help="Instruction in place of the checkpoint's own.", show_default=False, rich_help_panel=_DECODING),
]

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="File for the results; an existing one is kept unless --overwrite. A JSONL file is continued: the same "
        "command again writes what is missing. For sr and fhir: a folder, which is continued, too.",
        show_default=False,
        rich_help_panel=_OUTPUT,
    ),
]
Identifiers = Annotated[
    bool,
    typer.Option(
        "--identifiers",
        help="sr and fhir: carry the file's identifiers of patient, study and image. Without, documents name no "
        "patient and belong to no study of an archive.",
        rich_help_panel=_OUTPUT,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing output file.", rich_help_panel=_OUTPUT)
]
ShowPaths = Annotated[
    bool,
    typer.Option(
        "--show-paths",
        help="Name inputs by path in results and messages. File names may identify a patient.",
        rich_help_panel=_OUTPUT,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and no summary, errors only.", rich_help_panel=_OUTPUT)
]
