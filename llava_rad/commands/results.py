"""Where reports go: printed as they come, collected into one file, or appended to a log that a later run continues."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.errors import ReadError
from llava_rad.commands.console import name_of, show_error, uninterrupted
from llava_rad.commands.options import Format
from llava_rad.generation.report_writer import Failure, Outcome, ReportWriter
from llava_rad.generation.sources import Source
from llava_rad.outputs.files import OutputError, ReportLog, check_output, write_whole
from llava_rad.outputs.report import Report
from llava_rad.outputs.text import SEPARATOR, footer, header

if TYPE_CHECKING:
    from encoder.reader.sandbox import Reader
    from llava_rad.outputs.document import Document


class Results:
    """Reports to standard output; ``several`` makes JSON an array."""

    how_to_go_on = ""

    def __init__(self, format: Format, *, several: bool) -> None:
        self._format, self._several = format, several
        self._collected: list[Report] = []
        self._streaming: Source | None = None
        self.written = 0

    @property
    def on_terminal(self) -> bool:
        """Whether results and progress would share the screen."""
        return sys.stdout.isatty()

    def left(self, writer: ReportWriter, sources: Sequence[Source]) -> list[Source]:
        """The sources that are still to be done."""
        return list(sources)

    def take(self, outcome: Outcome, *, total: int, show_paths: bool) -> bool:
        """Put a report where it goes, or a failure on standard error; False for a failure.

        Raises:
            ReadError: the only input failed.
        """
        if isinstance(outcome, Failure):
            if total == 1:
                raise outcome.error
            name = name_of(outcome.source, total, outcome.sha256, show_paths=show_paths)
            show_error(outcome.error, of=f"{name}: ")
            return False
        with uninterrupted():
            if self._streaming is not None:
                self._print(footer(outcome))
                self._streaming = None
            else:
                self._report(outcome)
            self.written += 1
        return True

    def take_piece(self, source: Source, piece: str, *, demonstration: bool) -> None:
        """Print a piece of a report that is being written."""
        if self._streaming is not source:
            self._streaming = source
            self._print(self._separator() + header(demonstration=demonstration))
        self._print(piece)

    def finish(self) -> None:
        """Bring out what was collected."""
        if self._format is Format.json and (self._several or self._collected):
            self._print(self._json())

    def close(self) -> None:
        """Release files."""

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _report(self, report: Report) -> None:
        if self._format is Format.text:
            self._print(self._separator() + report.to_text())
        elif self._format is Format.jsonl:
            self._print(report.to_json(indent=None) + "\n")
        else:
            self._collected.append(report)

    def _separator(self) -> str:
        return f"\n{SEPARATOR}\n\n" if self.written else ""

    def _json(self) -> str:
        if not self._several:
            return self._collected[0].to_json() + "\n"
        return "[" + ",\n".join(report.to_json() for report in self._collected) + "]\n"

    def _print(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


class _File(Results):
    """Text or JSON in one file, written at the end (or at an interrupt) in one step."""

    def __init__(self, format: Format, path: Path, *, several: bool, overwrite: bool, inputs: Iterable[Path]) -> None:
        check_output(path, inputs=inputs, overwrite=overwrite)
        super().__init__(format, several=several)
        self._path, self._overwrite, self._parts = path, overwrite, list[str]()

    on_terminal = False

    def _print(self, text: str) -> None:
        self._parts.append(text)

    def finish(self) -> None:
        super().finish()
        if self._parts:
            write_whole(self._path, "".join(self._parts).encode(), overwrite=self._overwrite)


class _Log(Results):
    """JSONL in a file that a later run continues."""

    how_to_go_on = "; the same command again goes on"
    on_terminal = False

    def __init__(self, path: Path, *, overwrite: bool, inputs: Iterable[Path]) -> None:
        super().__init__(Format.jsonl, several=True)
        self._log = ReportLog(path, overwrite=overwrite, inputs=inputs)

    def left(self, writer: ReportWriter, sources: Sequence[Source]) -> list[Source]:
        if not self._log.holds_reports:
            return list(sources)
        return writer.without(sources, self._log.done(writer.settings()))

    def _report(self, report: Report) -> None:
        self._log.append([report])

    def close(self) -> None:
        self._log.close()


class _Folder(Results):
    """Documents of hospital formats: files of a folder; those of the same image and settings are kept.

    Their names hold the beginning of the image's SHA-256, and of another that stands for model, recipe, decoding, frame
    and whether identifiers are carried: what was made otherwise is not taken for done.
    """

    how_to_go_on = "; the same command again goes on"
    on_terminal = False

    def __init__(self, format: Format, folder: Path, *, overwrite: bool, identifiers: bool) -> None:
        super().__init__(format, several=True)
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise OutputError("the output is not a folder", hint=f"{format.value} documents go into one")
        folder.mkdir(exist_ok=True)
        self._folder, self._overwrite, self._identifiers = folder, overwrite, identifiers
        self._sources: dict[str, Source] = {}
        self._reader: Reader | None = None
        self._made = ""

    def left(self, writer: ReportWriter, sources: Sequence[Source]) -> list[Source]:
        made = writer.settings() | {"frame": writer.frame, "identifiers": self._identifiers}
        self._made = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
        left = []
        for source in sources:
            sha256 = source.sha256() or ""
            if self._overwrite or not all(path.exists() for path in self._paths(sha256)):
                left.append(source)
            self._sources[sha256] = source
        return left

    def take(self, outcome: Outcome, *, total: int, show_paths: bool) -> bool:
        try:
            return super().take(outcome, total=total, show_paths=show_paths)
        except ReadError as error:  # a file that has no identifiers to carry
            if isinstance(outcome, Failure) or total == 1:
                raise
            source = self._sources[outcome.input.sha256]
            name = name_of(source, total, outcome.input.sha256, show_paths=show_paths)
            show_error(error, of=f"{name}: ")
            return False

    def _report(self, report: Report) -> None:
        from llava_rad.outputs.document import Document

        identity = None
        if self._identifiers:
            from encoder.reader.sandbox import Reader

            self._reader = self._reader or Reader()
            identity = self._reader.identity(self._sources[report.input.sha256].content())
        document = Document.of(report, datetime.now().astimezone(), identity=identity)
        for path, content in zip(self._paths(report.input.sha256), self._contents(document), strict=True):
            write_whole(path, content, overwrite=True)

    def _paths(self, sha256: str) -> list[Path]:
        kinds = ["report.dcm", "labels.dcm"] if self._format is Format.sr else ["fhir.json"]
        return [self._folder / f"{sha256[:16]}-{self._made[:8]}.{kind}" for kind in kinds]

    def _contents(self, document: Document) -> Sequence[bytes]:
        if self._format is Format.sr:
            from llava_rad.outputs.sr import to_sr

            return to_sr(document)
        from llava_rad.outputs.fhir import to_fhir

        return [(json.dumps(to_fhir(document), ensure_ascii=False, indent=2) + "\n").encode()]

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


def open_results(
    format: Format,
    output: Path | None,
    *,
    several: bool,
    overwrite: bool,
    inputs: Iterable[Path],
    identifiers: bool = False,
) -> Results:
    """Where reports of this form go.

    Raises:
        OutputError: the output file would harm something that is there.
    """
    if output is not None and format in (Format.sr, Format.fhir):
        return _Folder(format, output, overwrite=overwrite, identifiers=identifiers)
    if output is None or str(output) == "-":
        return Results(format, several=several)
    if format is Format.jsonl:
        return _Log(output, overwrite=overwrite, inputs=inputs)
    return _File(format, output, several=several, overwrite=overwrite, inputs=inputs)
