"""``llava-rad pacs``: fetch images from an archive, store drafts in it."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encoder.errors import LlavaRadError
from llava_rad.commands import options as opt
from llava_rad.commands.console import note, warn_of_slow_type
from llava_rad.generation.options import GenerationOptions
from llava_rad.outputs.formats import archive_formats

if TYPE_CHECKING:
    from llava_rad.pacs.jobs import Count

EPILOG = "\n\n".join(
    (
        "Authentication: LLAVA_RAD_PACS_TOKEN, or LLAVA_RAD_PACS_USER and LLAVA_RAD_PACS_PASSWORD, or ~/.netrc. "
        "REQUESTS_CA_BUNDLE names the certificates of your own authority.",
        "Every command continues when it is repeated; nothing is fetched or stored twice. AI-generated drafts, "
        "research use only, not for clinical use.",
    )
)
_FORMATS = " or ".join(row.name for row in archive_formats())
app = typer.Typer(
    help="Fetch images from a DICOMweb archive, store drafts in it.",
    epilog=EPILOG,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Url = Annotated[
    str,
    typer.Option(
        help="Address of the DICOMweb service.", metavar="URL", envvar="LLAVA_RAD_PACS_URL", show_default=False
    ),
]
Date = Annotated[
    str | None,
    typer.Option(
        help="Day or range of studies in DICOM notation: 20261126, 20261101-, 20261101-20261130.",
        metavar="DATE",
        show_default=False,
    ),
]
Modalities = Annotated[str, typer.Option(help="Modalities of the images, separated by commas.", metavar="CODES")]
Folder = Annotated[Path, typer.Option("--output", "-o", help="Folder; created if missing.", metavar="DIR")]


@app.command("pull", epilog=EPILOG)
def pull(
    context: typer.Context,
    url: Url,
    output: Folder,
    study: Annotated[
        list[str] | None, typer.Option(help="Study Instance UID, repeatable.", metavar="UID", show_default=False)
    ] = None,
    date: Date = None,
    modality: Modalities = "CR,DX",
) -> None:
    """Fetch radiographs into a folder, for 'generate' or 'serve --worklist'."""
    from llava_rad.outputs.files import held_folder
    from llava_rad.pacs import jobs
    from llava_rad.pacs.client import Pacs, checked_uid

    if study and date is not None:
        raise typer.BadParameter("a date selects among all studies, not among named ones", param_hint="--date")
    _check_date(date)
    for uid in study or ():
        checked_uid(uid)
    modalities, pacs = _codes(modality), Pacs(url, tell=note)
    context.with_resource(held_folder(folder := _made(output)))
    count = jobs.pull(pacs, folder, studies=study or (), date=date, modalities=modalities, tell=note)
    note(f"{count.new} images fetched, {count.known} were there already" + _rest(count, pacs.passed_over))
    _leave(count)


@app.command("push", epilog=EPILOG)
def push(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(help=f"DICOM files, such as 'generate -f {_FORMATS}' writes.", metavar="FILE..."),
    ],
    url: Annotated[
        str | None,
        typer.Option(
            help="Address of the DICOMweb service.", metavar="URL", envvar="LLAVA_RAD_PACS_URL", show_default=False
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="Application entity of an archive without DICOMweb, for C-STORE; LLAVA_RAD_PACS_URL is then not used.",
            metavar="AET@HOST:PORT",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Store DICOM files."""
    source = context.get_parameter_source("url")
    if to is not None and source is not None and source.name == "ENVIRONMENT":
        url = None  # an option is nearer than the environment, which serves the other commands
    if (url is None) == (to is None):
        raise typer.BadParameter("name one archive", param_hint="--url, --to")
    for number, path in enumerate(files, 1):
        if not path.is_file():
            raise typer.BadParameter(f"file {number} of {len(files)} does not exist", param_hint="FILE")
    from llava_rad.pacs import jobs

    if to is not None:
        from llava_rad.pacs.c_store import StorageUser

        archive = StorageUser(to)
        try:
            count = jobs.push(files, archive.store, tell=note)
        finally:
            archive.close()
    else:
        from llava_rad.pacs.client import Pacs

        pacs = Pacs(str(url), tell=note)
        count = jobs.push(files, lambda path: pacs.store([path.read_bytes()]), tell=note)
    note(f"{count.new} files stored" + _rest(count, 0))
    _leave(count)


@app.command("watch", epilog=EPILOG)
@opt.expand
def watch(
    context: typer.Context,
    url: Url,
    output: Folder,
    *,
    store: Annotated[
        bool,
        typer.Option(
            "--store",
            help="Store each draft in the archive, with the identifiers of patient and study, as: "
            + ", ".join(row.title for row in archive_formats())
            + ".",
        ),
    ] = False,
    every: Annotated[float, typer.Option(min=1.0, help="Seconds between two searches.")] = 60.0,
    settle: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Seconds for which a study must have had the same images before its report is written; later images "
            "do not change it. Default: 60, with --once 0.",
            metavar="SECONDS",
            show_default=False,
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Search once, then exit.")] = False,
    date: Date = None,
    modality: Modalities = "CR,DX",
    options: Annotated[
        GenerationOptions,
        opt.Fields(
            "model", "revision", "profile", "allow_remote", "server_timeout", "offline", "device", "dtype",
            "max_new_tokens", "unsure",
        ),
    ],
) -> None:  # fmt: skip
    """Write a draft for each study with chest radiographs that is new in the archive."""
    from llava_rad.generation.chat_server import DownError
    from llava_rad.generation.report_writer import ReportWriter
    from llava_rad.generation.study_writer import StudyWriter
    from llava_rad.outputs.files import OutputError, held_folder
    from llava_rad.pacs.client import Pacs
    from llava_rad.pacs.processed import Pauses, RecordError
    from llava_rad.pacs.transport import PacsError
    from llava_rad.pacs.watch import SETTLE_S, watch_once

    _check_date(date)
    if not math.isfinite(every) or every > 86400:
        raise typer.BadParameter("a search is due once a day at least", param_hint="--every")
    settle = (0.0 if once else SETTLE_S) if settle is None else settle
    if not math.isfinite(settle):
        raise typer.BadParameter("a number of seconds is needed", param_hint="--settle")
    modalities, pacs, folder = _codes(modality), Pacs(url, tell=note), _made(output)
    context.with_resource(held_folder(folder))
    pauses, passed_over = Pauses(0.0 if once else every), 0
    warn_of_slow_type(options.dtype, options.device)
    with ReportWriter(options) as writer:
        while True:
            pacs.passed_over = 0
            try:
                count = watch_once(
                    pacs, folder, StudyWriter(writer), date=date, modalities=modalities, store=store, tell=note,
                    pauses=pauses, settle=settle,
                )  # fmt: skip
            except (PacsError, OutputError, RecordError, DownError) as error:
                if once:
                    raise
                note(f"{error}; next search in {every:g} s")
            else:
                if count.new or count.refused or count.failed or once or pacs.passed_over != passed_over:
                    note(
                        f"{count.new} drafts written, {count.refused} images refused, {count.known} known"
                        + _rest(count, pacs.passed_over)
                    )
                passed_over = pacs.passed_over
                if once:
                    return _leave(count)
            time.sleep(every)


def _rest(count: Count, passed_over: int) -> str:
    """Describe what was not processed, for the last line of a command."""
    parts = [f"{count.failed} failed"] if count.failed else []
    if passed_over:
        parts.append(f"{passed_over} series without modality passed over")
    return "".join(f", {part}" for part in parts)


def _leave(count: Count) -> None:
    if count.exit_code:
        raise typer.Exit(count.exit_code)


def _check_date(date: str | None) -> None:
    from llava_rad.pacs.client import date_range

    if date is not None:
        date_range(date)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LlavaRadError(f"the output folder cannot be used: {error.strerror}") from None
    return folder


def _codes(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(code.strip().upper() for code in text.split(",")))
    if not all(re.fullmatch(r"[A-Z0-9_]{1,16}", code) for code in found):
        raise typer.BadParameter("modality codes must be separated by commas", param_hint="--modality")
    return found
