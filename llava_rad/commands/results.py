"""Where reports go: printed as they come, collected into one file, or appended to a log that a later run continues."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from llava_rad.commands.console import name_of, show_error, uninterrupted
from llava_rad.commands.options import Format
from llava_rad.inputs import Source
from llava_rad.outputs.files import ReportLog, check_output, write_whole
from llava_rad.outputs.report import Report
from llava_rad.outputs.text import SEPARATOR, footer, header
from llava_rad.pipeline import Failure, Outcome, ReportWriter


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


def open_results(
    format: Format, output: Path | None, *, several: bool, overwrite: bool, inputs: Iterable[Path]
) -> Results:
    """Where reports of this form go.

    Raises:
        OutputError: the output file would harm something that is there.
    """
    if output is None or str(output) == "-":
        return Results(format, several=several)
    if format is Format.jsonl:
        return _Log(output, overwrite=overwrite, inputs=inputs)
    return _File(format, output, several=several, overwrite=overwrite, inputs=inputs)
