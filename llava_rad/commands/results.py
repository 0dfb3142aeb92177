"""Destinations of generated reports: standard output, one file, a log that a later run continues, or a folder."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.errors import ReadError
from llava_rad.commands.console import name_of, note, show_error, uninterrupted
from llava_rad.generation.report_writer import Failure, Outcome, ReportWriter
from llava_rad.generation.sources import Source
from llava_rad.outputs.files import OutputError, ReportLog, check_output, held_folder, held_output, write_whole
from llava_rad.outputs.formats import FORMATS, DocumentWriter, OutputFormat, StreamWriter, TextWriter
from llava_rad.outputs.report import Report, footer

if TYPE_CHECKING:
    from encoder.reader.identity import Identity
    from encoder.reader.sandbox import Reader


class _Identities:
    """Identifiers of the inputs by SHA-256, read in a child process."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self._reader: Reader | None = None

    def add(self, writer: ReportWriter, sources: Sequence[Source]) -> None:
        """Remember inputs, and the study inputs of all of them."""
        for source in (*(source for _, source in writer.inputs.images), *sources):
            self.sources[source.sha256() or ""] = source

    def of(self, sha256: str) -> Identity:
        """Read the identifiers of an input.

        Raises:
            ReadError: if it has none.
        """
        from encoder.reader.sandbox import Reader

        self._reader = self._reader or Reader()
        return self._reader.identity(self.sources[sha256].content())

    def close(self) -> None:
        """End the child process."""
        if self._reader is not None:
            self._reader.close()


class Results(ABC):
    """Destination of the reports of one run; a context manager.

    Args:
        identifiers: reports carry identifiers of study and image.

    Attributes:
        written: number of reports so far.
    """

    how_to_continue = ""
    on_terminal = False
    """Results and progress share the screen."""
    _names_inputs = False
    """Inputs are looked up by SHA-256, without identifiers too."""

    def __init__(self, *, identifiers: bool = False) -> None:
        self.written = 0
        self._identifiers, self._identities = identifiers, _Identities()

    def left(self, writer: ReportWriter, sources: Sequence[Source]) -> list[Source]:
        """Return the sources that have no report here yet."""
        if self._identifiers or self._names_inputs:
            self._identities.add(writer, sources)
        return self._lacking(writer, sources)

    def _lacking(self, writer: ReportWriter, sources: Sequence[Source]) -> list[Source]:
        return list(sources)

    def _named(self, report: Report) -> Report:
        """Return a report with the UIDs of its images, if identifiers are asked for."""
        if not self._identifiers:
            return report
        from llava_rad.outputs.document import with_uids

        return with_uids(report, self._identities.of)

    def take(self, outcome: Outcome, *, total: int, show_paths: bool) -> bool:
        """Write a report, or describe a failure on standard error; return False for a failure.

        Raises:
            ReadError: if the only input failed.
        """
        if isinstance(outcome, Failure):
            if total == 1:
                raise outcome.error
            name = name_of(outcome.source, total, outcome.sha256, show_paths=show_paths)
            show_error(outcome.error, of=f"{name}: ")
            return False
        with uninterrupted():
            self._report(outcome)
            self.written += 1
        return True

    @abstractmethod
    def _report(self, report: Report) -> None: ...

    def finish(self) -> None:  # noqa: B027
        """Write what waits for the last report."""

    def close(self) -> None:
        """Release files and processes."""
        self._identities.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Printed(Results):
    """Reports on standard output, and the pieces of one that is still being generated."""

    def __init__(self, writer: StreamWriter, *, identifiers: bool = False) -> None:
        super().__init__(identifiers=identifiers)
        self._writer = writer
        self._streaming: Source | None = None

    @property
    def on_terminal(self) -> bool:  # type: ignore[override]
        return sys.stdout.isatty()

    def take_piece(self, source: Source, piece: str, *, demonstration: bool) -> None:
        """Print a piece of a report that is being generated."""
        assert isinstance(self._writer, TextWriter)
        if self._streaming is not source:
            self._streaming = source
            self._put(self._writer.start(demonstration=demonstration))
        self._put(piece)

    def _report(self, report: Report) -> None:
        if self._streaming is not None:
            self._put(footer(report))
            self._streaming = None
        else:
            self._put(self._writer.add(self._named(report)))

    def finish(self) -> None:
        self._put(self._writer.end())

    def _put(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


class _File(Printed):
    """One file, written in one step at the end or at an interrupt."""

    on_terminal = False

    def __init__(
        self, writer: StreamWriter, path: Path, *, overwrite: bool, inputs: Iterable[Path], identifiers: bool
    ) -> None:
        check_output(path, inputs=inputs, overwrite=overwrite)
        self._held = ExitStack()
        self._held.enter_context(held_output(path))
        super().__init__(writer, identifiers=identifiers)
        self._path, self._overwrite, self._parts = path, overwrite, list[str]()

    def _put(self, text: str) -> None:
        self._parts.append(text)

    def finish(self) -> None:
        super().finish()
        if content := "".join(self._parts):
            write_whole(self._path, content.encode(), overwrite=self._overwrite)

    def close(self) -> None:
        super().close()
        self._held.close()


class _Log(Results):
    """JSONL file that a later run continues."""

    how_to_continue = "; the same command continues the run"

    def __init__(self, path: Path, *, overwrite: bool, inputs: Iterable[Path], identifiers: bool) -> None:
        super().__init__(identifiers=identifiers)
        self._log = ReportLog(path, overwrite=overwrite, inputs=inputs)

    def _lacking(self, writer: ReportWriter, sources: Sequence[Source]) -> list[Source]:
        if not self._log.holds_reports:
            return list(sources)
        return writer.without(sources, self._log.done(writer.settings()))

    def _report(self, report: Report) -> None:
        self._log.append([self._named(report)])

    def close(self) -> None:
        super().close()
        self._log.close()


class _Folder(Results):
    """Documents as files of a folder; those of the same image and settings are kept.

    A file name holds the first digits of the image's SHA-256, and of a second SHA-256 over model, recipe, decoding
    options, frame and ``identifiers``: a document made with other settings has another name.
    """

    how_to_continue = "; the same command continues the run"
    _names_inputs = True

    def __init__(self, format: OutputFormat, folder: Path, *, overwrite: bool, identifiers: bool) -> None:
        super().__init__(identifiers=identifiers)
        try:
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                raise OutputError("the output is not a folder", hint=f"{format.name} documents go into one")
            folder.mkdir(exist_ok=True)
        except FileNotFoundError:
            raise OutputError("the output's folder does not exist") from None
        except OSError as error:
            raise OutputError(f"the output cannot be used ({os.strerror(error.errno or 0)})") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError("the output folder is read-only")
        self._held = ExitStack()
        self._held.enter_context(held_folder(folder))
        self._writer: DocumentWriter = format.load()()
        self._endings = format.endings
        self._folder, self._overwrite = folder, overwrite
        self._made = ""
        self._warning: str | None = None

    def _lacking(self, writer: ReportWriter, sources: Sequence[Source]) -> list[Source]:
        made = writer.settings() | {"frame": writer.frame, "identifiers": self._identifiers}
        self._made = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
        return [
            source
            for source in sources
            if self._overwrite or not all(path.exists() for path in self._paths(source.sha256() or ""))
        ]

    def take(self, outcome: Outcome, *, total: int, show_paths: bool) -> bool:
        self._warning = None
        try:
            taken = super().take(outcome, total=total, show_paths=show_paths)
        except ReadError as error:  # the file has no identifiers
            if isinstance(outcome, Failure) or total == 1:
                raise
            show_error(error, of=f"{self._name(outcome, total, show_paths)}: ")
            return False
        if self._warning and not isinstance(outcome, Failure):
            note(f"warning: {self._name(outcome, total, show_paths)}: {self._warning}")
        return taken

    def _name(self, report: Report, total: int, show_paths: bool) -> str:
        sha256 = report.input.sha256
        return name_of(self._identities.sources[sha256], total, sha256, show_paths=show_paths)

    def _report(self, report: Report) -> None:
        from llava_rad.outputs.document import Document

        at = datetime.now().astimezone()
        if self._identifiers:
            document = Document.identified(report, at, self._identities.of)
        else:
            document = Document.of(report, at)
        self._warning = "; ".join(document.warnings_of_identity) or None
        for path, content in zip(self._paths(report.input.sha256), self._writer.files(document), strict=True):
            write_whole(path, content, overwrite=True)

    def _paths(self, sha256: str) -> list[Path]:
        return [self._folder / f"{sha256[:16]}-{self._made[:8]}.{ending}" for ending in self._endings]

    def close(self) -> None:
        super().close()
        self._held.close()


def open_results(
    name: str,
    output: Path | None,
    *,
    several: bool,
    overwrite: bool,
    inputs: Iterable[Path],
    identifiers: bool = False,
) -> Results:
    """Open the destination of reports.

    Args:
        name: of the format, a key of :data:`llava_rad.outputs.formats.FORMATS`.
        output: file or, for formats of documents, folder; None or ``-`` is standard output.
        several: as for :class:`llava_rad.outputs.formats.StreamWriter`.
        overwrite: an existing file may be replaced.
        inputs: files that are being read, which are never replaced.
        identifiers: documents carry the identifiers of patient, study and image, other formats the UIDs.

    Raises:
        OutputError: if the output would replace or follow something that it must not.
    """
    format = FORMATS[name]
    if format.endings:
        assert output is not None
        return _Folder(format, output, overwrite=overwrite, identifiers=identifiers)
    writer: type[StreamWriter] = format.load()
    if output is None or str(output) == "-":
        return Printed(writer(several=several), identifiers=identifiers)
    if format.resumable:
        return _Log(output, overwrite=overwrite, inputs=inputs, identifiers=identifiers)
    return _File(writer(several=several), output, overwrite=overwrite, inputs=inputs, identifiers=identifiers)
