"""``llava-rad generate``: write the findings of one or many images."""

from __future__ import annotations

import glob
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encoder.errors import ReadError
from encoder.runs.progress import progress_bar
from llava_rad.commands import options as opt
from llava_rad.commands.console import note, uninterrupted, warn_of_slow_type
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.sources import Source, example, expand
from llava_rad.generation.study import StudyInputs
from llava_rad.outputs.formats import FORMATS, document_formats

if TYPE_CHECKING:
    from llava_rad.commands.results import Results
    from llava_rad.generation.report_writer import ReportWriter

Paths = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATH... | -",
        help="DICOM, PNG (8 or 16 bit), JPEG, TIFF or WebP: files, folders, quoted patterns; - is standard input.",
        show_default=False,
    ),
]
Example = Annotated[
    bool,
    typer.Option(
        "--example", help="Read a real chest radiograph from the package pydicom-data.", rich_help_panel="Input"
    ),
]
Stream = Annotated[
    bool | None,
    typer.Option(
        "--stream/--no-stream",
        help="Print the text while it is written. Default: only for one image on a terminal.",
        show_default=False,
        rich_help_panel="Output",
    ),
]


@opt.expand
def command(
    paths: Paths = None,
    *,
    example: Example = False,
    recursive: opt.Recursive = False,
    group: Annotated[
        bool,
        typer.Option(
            "--group",
            help="One report for each study: DICOM files of one Study Instance UID are its frontal and lateral image, "
            "the patient's newest earlier study among the inputs is the prior.",
            rich_help_panel="Study (of models whose prompt has a place for it)",
        ),
    ] = False,
    one_study: Annotated[
        bool,
        typer.Option(
            "--study",
            help="As --group; files without a header, such as PNG, are one study together.",
            rich_help_panel="Study (of models whose prompt has a place for it)",
        ),
    ] = False,
    study: Annotated[StudyInputs, opt.Fields()],
    options: Annotated[GenerationOptions, opt.Fields()],
    format: opt.Format = "text",
    output: opt.Output = None,
    overwrite: opt.Overwrite = False,
    identifiers: opt.Identifiers = False,
    stream: Stream = None,
    quiet: opt.Quiet = False,
) -> None:
    """Write the findings of frontal chest radiographs.

    Of several inputs, refused ones are named on standard error (exit code 3).
    """
    named = _named(paths, example)
    beams = options.num_beams or 1
    if stream and (format != "text" or output is not None or beams > 1):
        raise typer.BadParameter("only text on standard output, without beams, is streamed", param_hint="--stream")
    if overwrite and output is None:
        raise typer.BadParameter("there is no --output to replace", param_hint="--overwrite")
    _check_documents(format, output, identifiers)
    grouped = group or one_study
    _check_study(study, format, output, overwrite, stream)
    if identifiers and not FORMATS[format].endings:  # names of documents tell
        _check_continued(format, output, overwrite, what="--identifiers")
    if grouped:
        _check_group(study, format, output, overwrite, stream)
    found = expand(named, recursive=recursive, stdin=sys.stdin.buffer)
    if found.skipped and not quiet:
        note(f"files skipped as no images: {found.skipped}")
    if not found.sources:
        raise ReadError("missing", "there is no image in what was named", hint="--recursive looks into subfolders")

    from llava_rad.commands.results import open_results
    from llava_rad.generation.report_writer import ReportWriter

    warn_of_slow_type(options.dtype, options.device)
    several = len(named) > 1 or not _is_one_file(named[0])
    used = study.study.used
    if len(found.sources) > 1 and not grouped and any(name != "grounded" for name in used):
        raise typer.BadParameter("it belongs to one image, several are named", param_hint=f"--{used[0]}")
    inputs = [source.path for source in found.sources if source.path is not None]
    if stream is None and not grouped:
        plain = format == "text" and output is None and len(found.sources) == 1 and beams == 1
        stream = plain and sys.stdout.isatty() and not study.grounded
    with open_results(
        format, output, several=several, overwrite=overwrite, inputs=inputs, identifiers=identifiers
    ) as results:
        try:
            with ReportWriter(options, study) as writer:
                if grouped:
                    _write_studies(writer, found.sources, results, one_study, options.show_paths, quiet=quiet)
                    return
                write = _stream if stream else _write
                write(writer, found.sources, results, show_paths=options.show_paths, quiet=quiet)
        except KeyboardInterrupt:
            with uninterrupted():
                results.finish()
            alone = not (grouped or used or (identifiers and not FORMATS[format].endings))
            note(f"interrupted: {results.written} reports written{results.how_to_continue if alone else ''}")
            raise typer.Exit(130) from None


def _named(paths: list[str] | None, with_example: bool) -> list[str | Path]:
    named: list[str | Path] = [*(paths or []), *([example()] if with_example else [])]
    if not named:
        raise typer.BadParameter("name an image, or --example", param_hint="PATH")
    if "-" in named and sys.stdin.isatty():
        raise typer.BadParameter("standard input is a terminal: send an image to it", param_hint="-")
    return named


def _check_documents(format: str, output: Path | None, identifiers: bool) -> None:
    documents = [row.name for row in document_formats()]
    if format in documents and output is None:
        raise typer.BadParameter(f"{format} documents go into a folder", param_hint="--output")
    if identifiers and not FORMATS[format].identified:
        names = ", ".join(row.name for row in FORMATS.values() if row.identified)
        raise typer.BadParameter(f"only {names} carry identifiers", param_hint="--identifiers")


def _check_continued(format: str, output: Path | None, overwrite: bool, *, what: str) -> None:
    """Refuse to continue reports that are identified by their image alone with what does not belong to it."""
    if output is None or overwrite or not FORMATS[format].resumable:
        return
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise typer.BadParameter(f"what is there is not continued with {what}", param_hint="--output")


def _check_study(study: StudyInputs, format: str, output: Path | None, overwrite: bool, stream: bool | None) -> None:
    """Refuse to continue files of reports with study inputs: reports in them are identified by their image alone."""
    if stream and study.grounded:
        raise typer.BadParameter("text with boxes is not streamed", param_hint="--stream")
    if used := study.study.used:
        _check_continued(format, output, overwrite, what=f"--{used[0]}")


def _check_group(study: StudyInputs, format: str, output: Path | None, overwrite: bool, stream: bool | None) -> None:
    """Refuse what does not go with studies: inputs of one study, streams, and files of reports that are continued."""
    given = [name for name in study.study.used if name != "grounded"]
    if given:
        raise typer.BadParameter("it belongs to one image, studies have their own", param_hint=f"--{given[0]}")
    if stream:
        raise typer.BadParameter("reports of studies are not streamed", param_hint="--stream")
    _check_continued(format, output, overwrite, what="studies")


def _write_studies(
    writer: ReportWriter, sources: list[Source], results: Results, together: bool, show_paths: bool, *, quiet: bool
) -> None:
    from llava_rad.generation.study_writer import StudyWriter

    results.left(writer, sources)
    studies = StudyWriter(writer, (lambda message: None) if quiet else note)
    groups = studies.groups(sources, together=together)
    failed = 0
    with progress_bar(len(groups), "studies", not quiet and len(groups) > 1 and not results.on_terminal) as progress:
        for outcome in studies.write(groups):
            taken = results.take(outcome, total=len(sources), show_paths=show_paths)
            failed += not taken
            progress.update(int(taken))
    results.finish()
    if not quiet and len(groups) > 1:
        refused = f", {failed} images refused" if failed else ""
        note(f"{results.written} reports of {len(groups)} studies written{refused}")
    if failed:
        raise typer.Exit(3)


def _is_one_file(named: str | Path) -> bool:
    try:
        return named == "-" or Path(named).is_file() or not (Path(named).is_dir() or glob.has_magic(str(named)))
    except OSError:  # a name too long to be one
        return True


def _write(writer: ReportWriter, sources: list[Source], results: Results, *, show_paths: bool, quiet: bool) -> None:
    total, failed = len(sources), 0
    left = results.left(writer, sources)
    wanted = not (quiet or total == 1 or results.on_terminal)
    with progress_bar(total, "images", wanted, total - len(left)) as progress:
        for outcome in writer.write(left):
            failed += not results.take(outcome, total=total, show_paths=show_paths)
            progress.update()
    results.finish()
    _sum_up(results.written, total - len(left), failed, total, quiet=quiet)


def _stream(writer: ReportWriter, sources: list[Source], results: Results, *, show_paths: bool, quiet: bool) -> None:
    from llava_rad.commands.results import Printed

    assert isinstance(results, Printed)  # other destinations are refused above
    failed = 0
    for source in sources:
        for piece in writer.stream(source):
            if isinstance(piece, str):
                results.take_piece(source, piece, demonstration=writer.config().demonstration)
            else:
                failed += not results.take(piece, total=len(sources), show_paths=show_paths)
    _sum_up(results.written, 0, failed, len(sources), quiet=quiet)


def _sum_up(written: int, existing: int, failed: int, total: int, *, quiet: bool) -> None:
    if total > 1 and not quiet:
        kept = f", {existing} were there already" if existing else ""
        note(f"{written} of {total} reports written{kept}{f', {failed} inputs failed' if failed else ''}")
    if failed:
        raise typer.Exit(3)
