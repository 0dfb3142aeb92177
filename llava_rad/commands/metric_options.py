"""Options of the metrics, for the commands that score."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

MODELS = "Weights of the metrics"


class Uncertain(StrEnum):
    """What uncertain labels count as."""

    negative = "negative"
    positive = "positive"


class Case(StrEnum):
    """Whether RadGraph's tokens are compared with their case."""

    sensitive = "sensitive"
    lower_case = "lower"


class RadGraphKind(StrEnum):
    """Published RadGraph models."""

    v1 = "radgraph"
    xl = "radgraph-xl"


class Backend(StrEnum):
    """Who runs RadGraph."""

    own = "own"
    package = "package"


class Precision(StrEnum):
    """Floating-point type of CheXbert and RadGraph."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Clean(StrEnum):
    """Preparation of the texts."""

    none = "none"
    r2gen = "r2gen"


def path(help: str, *names: str, panel: str = MODELS, metavar: str = "FILE") -> typer.models.OptionInfo:
    """An option without a default to show: a file, a folder or a name."""
    option: typer.models.OptionInfo = typer.Option(
        *names, help=help, metavar=metavar, show_default=False, rich_help_panel=panel
    )
    return option


Metrics = Annotated[str, typer.Option(help="Names with commas between; see below.", metavar="METRICS")]
Strata = Annotated[
    str, typer.Option(help="Columns to group by (sex,age,ethnicity,view); ages become bands.", metavar="COLUMNS")
]
CleanTexts = Annotated[
    Clean,
    typer.Option(help="r2gen: lower case, no punctuation, references cut at 60 tokens, as papers on IU X-ray do."),
]
Uncertainty = Annotated[Uncertain, typer.Option(help="What uncertain labels count as.")]
Bootstrap = Annotated[int, typer.Option(min=1, help="Bootstrap samples.")]
CheXbert = Annotated[Path | None, path("chexbert.pth.")]
BertVocab = Annotated[Path | None, path("bert-base-uncased: vocab.txt or its folder.", metavar="DIR")]
RadGraph = Annotated[Path | None, path("radgraph.tar.gz, or the folder it unpacks to.", metavar="PATH")]
RadGraphModel = Annotated[RadGraphKind, typer.Option(help="Which RadGraph.", rich_help_panel=MODELS)]
RadGraphTokenizer = Annotated[Path | None, path("The archive's base model: config and tokenizer.", metavar="DIR")]
RadGraphBackend = Annotated[
    Backend, typer.Option(help="Our inference, or the radgraph package's.", rich_help_panel=MODELS)
]
RadGraphCase = Annotated[
    Case, typer.Option(help="Compare tokens with their case (as published) or without.", rich_help_panel=MODELS)
]
BertScoreModel = Annotated[str | None, path("Folder or hub repository.", metavar="DIR-OR-HUB-ID")]
BertScoreLayers = Annotated[
    int | None, typer.Option(min=1, help="Which layer BERTScore takes.", show_default=False, rich_help_panel=MODELS)
]
BertScoreBaseline = Annotated[Path | None, path("Table LAYER, P, R, F to rescale with.")]
AllowDownload = Annotated[
    bool, typer.Option("--allow-download", help="Ask the hub for weights that are not there.", rich_help_panel=MODELS)
]
CacheFile = Annotated[Path | None, path("Annotations already made (default: user cache).")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep annotations.", rich_help_panel=MODELS)]
SkipMissing = Annotated[bool, typer.Option("--skip-missing", help="End with 0 though a metric could not be computed.")]
