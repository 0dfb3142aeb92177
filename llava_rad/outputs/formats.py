"""Registry of output formats, and the writers of the text formats.

One row describes a format to the command line, the review page, the archive commands and the reference; its writer
is named as a string, so that this module imports nothing heavy. To add a format, write a class that derives from
:class:`StreamWriter` or :class:`DocumentWriter` in a module of this package and add a row to :data:`FORMATS`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from llava_rad.outputs.document import Document
    from llava_rad.outputs.report import Report

SEPARATOR: Final = "-" * 72
DICOM: Final = "application/dicom"


class StreamWriter(ABC):
    """Characters of one or more reports, for standard output or one file.

    Args:
        several: the input was a folder, a pattern or more than one file.
    """

    def __init__(self, *, several: bool) -> None:
        self.several = several

    @abstractmethod
    def add(self, report: Report) -> str:
        """Take one report; return the characters to write now."""

    def end(self) -> str:
        """Return the characters to write after the last report."""
        return ""


class TextWriter(StreamWriter):
    """Plain text, reports separated by a line."""

    def __init__(self, *, several: bool) -> None:
        super().__init__(several=several)
        self._reports = 0

    def start(self, *, demonstration: bool) -> str:
        """Return the characters before the findings of a report that is still being generated."""
        from llava_rad.outputs.report import header

        return self._separator() + header(demonstration=demonstration)

    def add(self, report: Report) -> str:
        return self._separator() + report.to_text()

    def _separator(self) -> str:
        self._reports += 1
        return f"\n{SEPARATOR}\n\n" if self._reports > 1 else ""


class JsonWriter(StreamWriter):
    """One JSON object, or an array of objects for several inputs, written at the end."""

    def __init__(self, *, several: bool) -> None:
        super().__init__(several=several)
        self._reports: list[str] = []

    def add(self, report: Report) -> str:
        self._reports.append(report.to_json())
        return ""

    def end(self) -> str:
        if self.several:
            return "[" + ",\n".join(self._reports) + "]\n"
        return "".join(f"{report}\n" for report in self._reports)


class JsonLinesWriter(StreamWriter):
    """One JSON object per line."""

    def add(self, report: Report) -> str:
        return report.to_json(indent=None) + "\n"


class DocumentWriter(ABC):
    """Files that one report becomes."""

    @abstractmethod
    def files(self, document: Document) -> Sequence[bytes]:
        """Return the content of each file, in the order of the row's ``endings``."""


@dataclass(frozen=True)
class OutputFormat:
    """One row of the registry.

    Attributes:
        name: value of ``--format``.
        title: name for people.
        help: one clause for ``generate --help``.
        writer: ``module:class`` of a :class:`StreamWriter`, or of a :class:`DocumentWriter` if there are ``endings``.
        endings: endings of the files that one report becomes; empty for formats of one stream.
        media_type: of each file.
        resumable: the same command again writes what a file or folder of this format lacks.
    """

    name: str
    title: str
    help: str
    writer: str
    endings: tuple[str, ...] = ()
    media_type: str = "text/plain"
    resumable: bool = False

    @property
    def identified(self) -> bool:
        """True if its reports may carry identifiers."""
        return self.media_type != "text/plain"

    @property
    def downloads(self) -> tuple[str, ...]:
        """File names under which the review page offers the files of one report."""
        return self.endings if len(self.endings) > 1 else tuple(f"report.{ending}" for ending in self.endings)

    def load(self) -> Any:
        """Import the writer's class."""
        module, _, name = self.writer.partition(":")
        return getattr(importlib.import_module(module), name)


_HERE = "llava_rad.outputs"
FORMATS: Final[dict[str, OutputFormat]] = {
    row.name: row
    for row in (
        OutputFormat("text", "Plain text", "plain text", f"{_HERE}.formats:TextWriter"),
        OutputFormat(
            "json", "JSON", "one object for one named file, else an array", f"{_HERE}.formats:JsonWriter",
            media_type="application/json",
        ),
        OutputFormat(
            "jsonl", "JSON Lines", "one object per line", f"{_HERE}.formats:JsonLinesWriter",
            media_type="application/jsonl", resumable=True,
        ),
        OutputFormat(
            "sr", "DICOM structured report", "two DICOM structured reports for each image or study",
            f"{_HERE}.sr:StructuredReportWriter", ("report.dcm", "labels.dcm"), DICOM, resumable=True,
        ),
        OutputFormat(
            "fhir", "FHIR R4 bundle", "one FHIR R4 bundle for each image or study", f"{_HERE}.fhir:BundleWriter",
            ("fhir.json",), "application/fhir+json", resumable=True,
        ),
    )
}  # fmt: skip
"""Every format by name, in the order of help texts."""


def document_formats() -> list[OutputFormat]:
    """Formats whose reports are files of their own, which the review page offers for download."""
    return [row for row in FORMATS.values() if row.endings]


def archive_formats() -> list[OutputFormat]:
    """Formats that a DICOM archive stores."""
    return [row for row in FORMATS.values() if row.media_type == DICOM]
